// The page: ids → connection → view → what is shown. Every arrow goes one way.

import * as api from "./api.js";
import { Connection } from "./connection.js";
import { byId, say, show } from "./dom.js";
import { showFaults } from "./faults.js";
import { Hero } from "./hero.js";
import { IdentityForm } from "./identity.js";
import { Phone } from "./phone.js";
import { Timeline } from "./timeline.js";
import { UNKNOWN, withAnswer, withEvent, withSnapshot } from "./view.js";
import { connectionWords, doneWords, errorSentence } from "./words.js";

/** What the page assumes of a server that does not say: the strictest driver, the simplest identity. */
const PLAIN = { driver: "neonize", auth: "trusted", faultsAllowed: false };

const config = { ...PLAIN, ...(await api.readConfig().catch(() => ({}))) };
const connection = new Connection();
const identity = new IdentityForm(config.auth, begin);
const timeline = new Timeline((id) => api.readEvent(identity.current, id));
const hero = new Hero({ onStart: start, onEnd: end });
const phone = config.driver === "simulated" ? new Phone(config.actions, act) : null;
let view = UNKNOWN;

function render() {
  const away = connection.status !== "connected";
  hero.render(view, connection.status);
  phone?.render(view.state, away);
}

function update(next) {
  view = next;
  render();
}

/** Say what is wrong in a sentence; null takes it back. */
function complain(problem) {
  const box = byId("problem");
  say(box, problem ? errorSentence(problem) : "");
  show(box, Boolean(problem));
}

/** Speak for these ids from now on. */
function begin(ids) {
  complain(null);
  if (ids.token === "") {
    identity.ask();
    complain({ message: "Enter an access token to begin." });
    return;
  }
  if (ids.token !== undefined && connection.servesBot(ids.botId) && connection.status !== "refused") {
    renew(ids.token);
    return;
  }
  timeline.clear();
  update(UNKNOWN);
  phone?.say("");
  connection.open(ids);
}

async function renew(token) {
  try {
    const answer = await connection.renew(token);
    if (!answer.ok) complain(answer);
  } catch {
    complain({ code: "unreachable" });
  }
}

async function start(phoneNumber) {
  complain(null);
  try {
    update(withAnswer(view, await api.startLink(identity.current, phoneNumber)));
    hero.reveal();
  } catch (problem) {
    if (phoneNumber && problem.code === "phone_number_invalid") hero.phoneError(errorSentence(problem));
    else complain(problem);
  }
}

async function end() {
  complain(null);
  try {
    await api.endLink(identity.current);
  } catch (problem) {
    complain(problem);
  }
}

async function act(action) {
  try {
    await api.simulate(identity.current, action);
    return doneWords(action, connection.status === "offline");
  } catch (problem) {
    if (problem.code === "not_simulated") phone.hide();
    return errorSentence(problem);
  }
}

connection.addEventListener("snapshot", ({ detail }) => update(withSnapshot(view, detail)));

connection.addEventListener("event", ({ detail }) => {
  timeline.add(detail);
  update(withEvent(view, detail));
});

connection.addEventListener("expired", ({ detail }) => {
  complain({ message: `Your token has run out. Enter a fresh one within ${Math.round(detail.graceSeconds)} seconds.` });
  identity.ask();
});

connection.addEventListener("status", ({ detail }) => {
  const [tone, text] = connectionWords(detail);
  const pill = byId("connection");
  pill.dataset.tone = tone;
  pill.dataset.status = detail.status;
  say(byId("connection-text"), text);
  say(byId("offline"), detail.status === "offline" ? "Come back" : "Go offline");
  if (detail.status === "connected") complain(null);
  if (detail.status === "refused") {
    complain(detail);
    if (detail.code === "unauthorized" || detail.code.endsWith("_invalid") || detail.code.endsWith("_missing")) {
      identity.ask();
    }
  }
  render();
});

byId("offline").addEventListener("click", () => {
  if (connection.status === "offline") connection.comeBack();
  else connection.goOffline();
});

async function offerFaults() {
  const { faults } = await api.readFaults();
  showFaults(faults, async (name, on) => {
    try {
      await api.setFault(name, on);
      return true;
    } catch (problem) {
      complain(problem);
      return false;
    }
  });
  show(byId("side"), true);
}

show(byId("side"), phone !== null);
begin(identity.current);
if (config.faultsAllowed) offerFaults().catch(complain);
