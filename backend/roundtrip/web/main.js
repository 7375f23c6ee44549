// The page: ids → connection → view → what is shown. Every arrow goes one way.

import * as api from "./api.js";
import { clockTime, now } from "./clock.js";
import { byId, h, say, show } from "./dom.js";
import { Hero } from "./hero.js";
import { IdentityForm } from "./identity.js";
import { config, connection } from "./start.js";
import { UNKNOWN, withAnswer, withEvent, withSnapshot } from "./view.js";
import { connectionWords, doneWords, elsewhereWords, errorSentence, expiredWords, noticeWords } from "./words.js";

const EARLIER = 50; // events of the ledger that a page begins with
const LINKED = new Set(["connecting", "qr", "pairing_code", "paired", "connected", "degraded", "disconnected", "replaced", "banned"]);

const identity = new IdentityForm(config.auth, begin);
const timeline = import("./timeline.js").then(({ Timeline }) => new Timeline((id) => api.readEvent(connection.identity, id)));
const spans = config.browserTraces ? import("./spans.js").then(({ Spans }) => new Spans(api.sendSpans)) : null;
const hero = new Hero({ onStart: start, onEnd: end });
let phone = null;
let view = UNKNOWN;
let fresh = true; // whether nothing was heard yet under these ids

function render() {
  hero.render(view, connection.status);
  phone?.render(view.state, connection.status);
  const heard = connection.heardAt === null ? null : clockTime(new Date(connection.heardAt).toISOString());
  const notice = view.state === "unknown" ? null : noticeWords(connection.status, heard);
  say(byId("notice"), notice ?? "");
  show(byId("notice"), Boolean(notice));
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

/** Speak for these ids from now on: one identity per connection, for HTTP too. */
async function begin(ids) {
  complain(null);
  if (ids.token && connection.canRenew(ids.botId) && !(await isOther(ids.token))) return;
  timeline.then((log) => log.clear());
  show(byId("elsewhere"), false);
  update(UNKNOWN);
  phone?.say("");
  fresh = true;
  if (ids.token === "") {
    connection.signOut();
    identity.ask();
  } else connection.open(ids);
}

/** Renew the connection's token. True if the token is another user's, who needs a connection of their own. */
async function isOther(token) {
  try {
    const answer = await connection.renew(token);
    if (answer.code === "forbidden") return true;
    if (!answer.ok) {
      complain(answer);
      identity.ask();
    }
  } catch {
    complain({ code: "unreachable" });
  }
  return false;
}

async function start(phoneNumber) {
  complain(null);
  try {
    update(withAnswer(view, await api.startLink(connection.identity, phoneNumber)));
    hero.reveal();
  } catch (problem) {
    if (phoneNumber && problem.code === "phone_number_invalid") hero.phoneError(errorSentence(problem));
    else complain(problem);
  }
}

async function end() {
  complain(null);
  try {
    await api.endLink(connection.identity);
  } catch (problem) {
    complain(problem);
  }
}

async function act(action) {
  try {
    await api.simulate(connection.identity, action);
    return doneWords(action, connection.status === "offline");
  } catch (problem) {
    if (problem.code === "not_simulated") phone.hide();
    return errorSentence(problem);
  }
}

connection.addEventListener("snapshot", ({ detail }) => {
  update(withSnapshot(view, detail));
  if (fresh) {
    fresh = false;
    offerEarlier(detail.seq);
    if (detail.state === "idle") offerOthers(detail.botId);
  }
});

connection.addEventListener("event", ({ detail }) => {
  const began = now();
  const start = performance.now();
  let failure = null;
  try {
    timeline.then((log) => log.add(detail));
    show(byId("elsewhere"), false);
    update(withEvent(view, detail));
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    const took = performance.now() - start;
    const who = connection.identity;
    spans?.then((it) => it.handled(who, detail, began, took, failure));
  }
});

connection.addEventListener("expired", ({ detail }) => {
  complain({ message: expiredWords(detail.graceSeconds) });
  identity.ask();
});

connection.addEventListener("status", ({ detail }) => {
  const [tone, text] = connectionWords(detail);
  const pill = byId("connection");
  pill.dataset.tone = tone;
  pill.dataset.status = detail.status;
  say(byId("connection-text"), text);
  say(byId("offline"), detail.status === "offline" ? "Go online" : "Go offline");
  show(byId("offline"), detail.status !== "signed_out");
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

/** The events from before this page, from the ledger. */
async function offerEarlier(seq) {
  const asked = connection.identity;
  try {
    const { events } = await api.readEvents(asked, Math.max(0, seq - EARLIER), EARLIER);
    if (asked === connection.identity) (await timeline).addEarlier(events);
  } catch {
    // the list is a convenience: what arrives from now on is shown all the same
  }
}

/** Nothing is linked here; if something is under another bot id of the same user, say so. */
async function offerOthers(botId) {
  const asked = connection.identity;
  const { bots } = await api.readBots(asked).catch(() => ({ bots: [] }));
  const others = bots.filter((bot) => bot.botId !== botId && LINKED.has(bot.state));
  if (asked !== connection.identity || view.state !== "idle" || others.length === 0) return;
  const buttons = others
    .slice(0, 5)
    .map((bot) => h("button", { type: "button", onclick: () => identity.switchTo(bot.botId) }, `Switch to ${bot.botId}`));
  byId("elsewhere").replaceChildren(h("p", {}, elsewhereWords(botId, others)), h("p", { class: "actions" }, ...buttons));
  show(byId("elsewhere"), true);
}

async function offerFaults() {
  const [{ faults }, { showFaults }] = await Promise.all([api.readFaults(), import("./faults.js")]);
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

async function offerPhone() {
  const { Phone } = await import("./phone.js");
  phone = new Phone(config.actions, act);
  show(byId("side"), true);
  render();
}

if (config.auth === "jwt") begin(identity.current);
connection.release();
// what is not needed to link an account comes after what is
if (config.driver === "simulated") offerPhone();
if (config.faultsAllowed) offerFaults().catch(complain);
setTimeout(() => import("./qr.js").catch(() => {}), 2000);
