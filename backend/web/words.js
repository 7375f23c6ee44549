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
    start: "Link again",
  },
  replaced: {
    tone: "bad",
    stage: "bad",
    headline: "Used somewhere else",
    sentence: "Another program took over this link with the same keys.",
    start: "Take it back",
    end: "Log out",
  },
  banned: {
    tone: "bad",
    stage: "bad",
    headline: "Banned for now",
    sentence: "WhatsApp has blocked this account.",
    start: "Try again",
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
    start: "Start again",
    end: "Forget this link",
  },
};

export const stateOf = (view) => STATES[view.state] ?? { ...STATES.unknown, headline: humane(view.state) };

/** The sentence under the headline: the state's own, and what the server advises. */
export function sentenceOf(view) {
  const own = stateOf(view).sentence;
  if (view.state === "banned") {
    return view.until ? `${own} It ends on ${dayTime(view.until)}.` : `${own} WhatsApp named no end.`;
  }
  const advice = view.state === "qr_expired" ? null : advise(view.userAction);
  return advice ? `${own} ${advice}` : own;
}

/** `userAction` is a sentence, or a word of a set that a newer server may have grown. */
function advise(action) {
  if (!action || action === "none") return null;
  if (/\s/.test(action)) return /[.!?]$/.test(action) ? action : `${action}.`;
  return ACTIONS[action] ?? `What helps: ${humane(action).toLowerCase()}.`;
}

const ACTIONS = {
  link_again: "Link it again to go on.",
  relink: "Link it again to go on.",
  retry: "Trying again may help.",
  wait: "Nothing to do but wait.",
  contact_support: "Tell whoever runs this backend.",
  contact_operator: "Tell whoever runs this backend.",
};

export const STEPS = {
  qr: ["Open WhatsApp on your phone", "Settings → Linked devices → Link a device", "Point the camera at the code"],
  pairing_code: [
    "Open WhatsApp on your phone",
    "Settings → Linked devices → Link a device",
    "Link with phone number instead, then type the code",
  ],
};

const TITLES = {
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

export const titleOf = (event) => TITLES[event.type] ?? humane(event.type);

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

const ERRORS = {
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
  restore: "Answer keep-alives",
};

const MISSES = {
  never_connected: "nobody had connected yet",
  key_mismatch: "only other bots of this user were connected",
  just_disconnected: "the socket had just left",
  disconnected: "no socket was connected",
  ack_timeout: "no confirmation came in time",
  queue_full: "the socket's queue was full",
  send_failed: "sending failed",
};

const OUTCOMES = {
  pending: "waiting to be confirmed",
  acked: "confirmed by a page",
  received: "received by a browser",
  superseded: "overtaken by a newer event",
  expired: "too old to deliver",
  discarded: "discarded",
};

/** One attempt of an event's history, as a line. */
export function attemptLine(attempt) {
  const sockets = attempt.sockets === 1 ? "1 socket" : `${attempt.sockets ?? 0} sockets`;
  const what =
    attempt.result === "sent"
      ? `${attempt.mode === "replay" ? "replayed" : "sent"} to ${sockets}`
      : `missed: ${MISSES[attempt.reason] ?? humane(attempt.reason ?? "unknown").toLowerCase()}`;
  return `${clockTime(attempt.at)}  ${what}`;
}

export const outcomeWords = (outcome) => OUTCOMES[outcome] ?? humane(outcome);

/** How long an event was on its way, for its badge. */
export function travelWords(event, arrivedAt) {
  return duration(arrivedAt - Date.parse(event.timestamp));
}

/** Whether a ban still holds. */
export const stillBanned = (view) =>
  view.state === "banned" && (!view.until || Date.parse(view.until) > now());

/** `snake_case` from the contract, readable. */
export function humane(word) {
  const text = String(word).replace(/^whatsapp_/, "").replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
