// Every sentence that depends on a state, an event type or a code.

import { clockTime, dayTime, duration, now } from "./clock.js";

/**
 * How a state looks and what may be done in it. `tone` colours it, `stage` is what the picture shows, `start` is the
 * label of the button that begins a link, `end` the label of the one that ends it.
 */
export const STATES = {
  unknown: { tone: "calm", stage: "wait", headline: "One moment", sentence: "Asking how things stand." },
  idle: {
    tone: "calm",
    stage: "idle",
    headline: "No account linked yet",
    sentence: "Link a WhatsApp account: it takes a phone and half a minute.",
    start: "Link WhatsApp",
  },
  connecting: {
    tone: "wait",
    stage: "wait",
    headline: "Reaching WhatsApp",
    sentence: "A code will be here in a moment.",
    end: "Cancel",
  },
  qr: { tone: "wait", stage: "qr", headline: "Scan this code", sentence: "The code changes by itself.", end: "Cancel" },
  pairing_code: {
    tone: "wait",
    stage: "code",
    headline: "Type this code",
    sentence: "Your phone asks for it.",
    end: "Cancel",
  },
  paired: {
    tone: "wait",
    stage: "wait",
    headline: "The phone said yes",
    sentence: "Finishing up with WhatsApp.",
    end: "Cancel",
  },
  connected: {
    tone: "good",
    stage: "good",
    headline: "Connected",
    sentence: "This account is linked. You can close this page; the link stays.",
    end: "Log out",
  },
  degraded: {
    tone: "warn",
    stage: "warn",
    headline: "The connection is shaky",
    sentence: "WhatsApp answers slowly. Nothing to do: it usually recovers by itself.",
    end: "Log out",
  },
  disconnected: {
    tone: "warn",
    stage: "warn",
    headline: "Connection lost",
    sentence: "Still linked. The backend keeps trying to reach WhatsApp.",
    end: "Log out",
  },
  qr_expired: {
    tone: "calm",
    stage: "idle",
    headline: "The codes ran out",
    sentence: "Nobody scanned in time. A fresh set is one press away.",
    start: "Start again",
  },
  logged_out: {
    tone: "bad",
    stage: "bad",
    headline: "Logged out",
    sentence: "This device is no longer linked to the account.",
    start: "Link WhatsApp",
  },
  replaced: {
    tone: "bad",
    stage: "bad",
    headline: "Used somewhere else",
    sentence: "Another program took over this link with the same keys.",
    start: "Link WhatsApp",
    end: "Log out",
  },
  banned: {
    tone: "bad",
    stage: "bad",
    headline: "Banned for now",
    sentence: "WhatsApp has blocked this account.",
    start: "Link WhatsApp",
    end: "Forget this link",
  },
  client_outdated: {
    tone: "bad",
    stage: "bad",
    headline: "This backend is too old",
    sentence: "WhatsApp no longer accepts its version. Whoever runs it has to update it.",
  },
  failed: {
    tone: "bad",
    stage: "bad",
    headline: "That did not work",
    sentence: "The link could not be made.",
    start: "Link WhatsApp",
    end: "Forget this link",
  },
};

/** What to show while nothing was heard: waiting is no answer to a refusal. */
const SILENT = {
  refused: { tone: "bad", stage: "bad", headline: "Not let in", sentence: "The backend refused this connection." },
  reconnecting: { tone: "warn", stage: "warn", headline: "No answer", sentence: "Trying to reach the backend again." },
  offline: { tone: "calm", stage: "warn", headline: "You are offline", sentence: "Come back to see how things stand." },
};

/** The words for a view, given how the connection fares. */
export function stateOf(view, connection) {
  if (view.state === "unknown") return SILENT[connection] ?? STATES.unknown;
  return STATES[view.state] ?? { ...STATES.unknown, headline: humane(view.state), sentence: "" };
}

/** The sentence under the headline: what the server advises where something failed, else the state's own. */
export function sentenceOf(view, words) {
  const advice = view.state === "qr_expired" ? null : advise(view.userAction);
  if (view.state === "banned") {
    const end = view.until ? `The ban ends on ${dayTime(view.until)}.` : "WhatsApp named no end.";
    return `${advice ?? words.sentence} ${end}`;
  }
  if (!advice) return words.sentence;
  return words.tone === "good" ? `${words.sentence} ${advice}` : advice;
}

/** `userAction` is a sentence; a newer server may send a word instead. */
function advise(action) {
  if (!action) return null;
  return /\s/.test(action) ? action : `What helps: ${humane(action).toLowerCase()}.`;
}

export const STEPS = {
  qr: ["Open WhatsApp on your phone", "Settings → Linked devices → Link a device", "Point the camera at the code"],
  pairing_code: [
    "Open WhatsApp on your phone",
    "Settings → Linked devices → Link a device",
    "Link with phone number instead, then type the code",
  ],
};

export const TITLES = {
  whatsapp_connecting: "Reaching WhatsApp",
  whatsapp_qr: "New QR code",
  whatsapp_pairing_code: "Pairing code",
  whatsapp_qr_expired: "Codes ran out",
  whatsapp_paired: "Phone accepted",
  whatsapp_connected: "Connected",
  whatsapp_degraded: "Connection shaky",
  whatsapp_disconnected: "Connection lost",
  whatsapp_logged_out: "Logged out",
  whatsapp_replaced: "Used somewhere else",
  whatsapp_banned: "Banned",
  whatsapp_client_outdated: "Backend too old",
  whatsapp_failed: "Failed",
};

export const titleOf = (event) => TITLES[event.type] ?? humane(event.type.replace("whatsapp_", ""));

export const toneOf = (event) => STATES[event.type.replace("whatsapp_", "")]?.tone ?? "calm";

/** What an event adds to its title. Codes are secrets and stay out of the list. */
export function detailOf(event) {
  const parts = [];
  if (event.total) parts.push(`code ${event.index} of ${event.total}`);
  if (event.displayName) parts.push(event.displayName);
  if (event.phoneNumber) parts.push(event.phoneNumber);
  if (event.first === true) parts.push("for the first time");
  if (event.first === false) parts.push("again");
  if (event.reasonCode) parts.push(humane(event.reasonCode).toLowerCase());
  if (event.until) parts.push(`until ${dayTime(event.until)}`);
  return parts.join(" · ");
}

export const ERRORS = {
  bot_id_missing: "Say which bot this is: the bot id is empty.",
  bot_id_invalid: "This bot id cannot be used: 1 to 128 printable characters, no spaces at its ends.",
  user_id_invalid: "This user id cannot be used: 1 to 128 printable characters, no spaces at its ends.",
  too_many_sockets: "This bot is open in too many tabs or devices. Close one; this page tries again by itself.",
  unauthorized: "Who you are could not be verified. Enter a fresh access token.",
  forbidden: "This bot is not yours.",
  unavailable: "The backend is not ready. This page tries again by itself.",
  unreachable: "The backend does not answer.",
  phone_number_invalid: "This is not a phone number that WhatsApp can reach. Begin with the country code, like +44.",
  rate_limited: "That was too often. Wait a moment, then try again.",
  too_many_links: "Too many links are being made at once. Finish one first.",
  outbox_unavailable: "The backend cannot store events now, so it starts nothing. Try again in a moment.",
  outbox_full: "The backend has no room for more events now. Try again in a moment.",
  store_unavailable: "The backend cannot store an account's keys now. Try again in a moment.",
  client_outdated: "WhatsApp no longer accepts this backend's version. Whoever runs it has to update it.",
  banned: "WhatsApp blocked this account. It can be linked again when the ban ends.",
  shutting_down: "The backend is stopping. This page finds it again by itself.",
  not_simulated: "There is no simulated phone here: a real one is needed.",
  link_not_found: "There is nothing linked yet. Press “Link WhatsApp” first.",
  action_impossible: "The phone cannot do that now.",
  http_404: "The backend does not know this address.",
  http_413: "That was too long for the backend.",
  http_429: "That was too often. Wait a moment, then try again.",
  http_500: "The backend failed at that. Its log knows why.",
  http_503: "The backend is not ready. Try again in a moment.",
};

/** A problem as a sentence for a person. */
export function errorSentence({ code, message }) {
  return ERRORS[code] ?? (message || `The backend refused: ${humane(code ?? "unknown").toLowerCase()}.`);
}

/** The connection in a few words: [tone, text]. */
export function connectionWords({ status, transport, attempt }) {
  switch (status) {
    case "connected":
      return ["good", transport ? `Live via ${transport}` : "Live"];
    case "reconnecting":
      return ["warn", attempt ? `Reconnecting, attempt ${attempt}` : "Reconnecting"];
    case "offline":
      return ["calm", "You are offline"];
    case "refused":
      return ["bad", "Refused"];
    default:
      return ["wait", "Connecting"];
  }
}

export const PHONE_ACTIONS = {
  scan: "Scan the code",
  disconnect: "Lose the network",
  reconnect: "Come back",
  logout: "Log out on the phone",
  replace: "Use the keys elsewhere",
  ban: "Ban the account",
  expire: "Let the codes run out",
  degrade: "Miss a keep-alive",
  restore: "Answer again",
  outdated: "Backend too old",
  crash: "Worker crashes",
  hang: "Worker hangs",
  unreachable: "No way to WhatsApp",
  connect_failure: "Refuse to connect",
  stream_error: "Stream error",
  flap: "Come and go",
  die_silently: "Die in silence",
};

const OUTCOMES = {
  pending: "Waiting to be confirmed.",
  acked: "Confirmed by a page.",
  received: "Received by a browser.",
  superseded: "Overtaken by a newer event.",
  expired: "Too old to deliver.",
  discarded: "Discarded.",
};

export const outcomeWords = (outcome) => OUTCOMES[outcome] ?? `${humane(outcome)}.`;

/** What to say once the phone has done something. */
export function doneWords(action, away) {
  if (action === "disconnect") return "Done. A blink is nobody's news: it is reported once it has lasted some seconds.";
  return away ? "Done. What came of it is replayed when you come back." : "Done.";
}

/** How long an event was on its way, for its badge. */
export function travelWords(event, arrivedAt) {
  return duration(arrivedAt - Date.parse(event.timestamp));
}

/** Whether a ban still holds. */
export const stillBanned = (view) =>
  view.state === "banned" && (!view.until || Date.parse(view.until) > now());

/** `snake_case` from the contract, readable. */
export function humane(word) {
  const text = String(word).replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
