// Every sentence that depends on a state, an event type or a code.

import { dayTime, duration, now } from "./clock.js";
import { wasCancelled } from "./view.js";

/**
 * How a state looks and what may be done in it. `tone` colours it, `stage` is what the picture shows, `start` is the
 * label of the button that begins a link, `end` the label of the one that ends it.
 */
export const STATES = {
  unknown: { tone: "calm", stage: "wait", headline: "Loading", sentence: "Reading the link state." },
  idle: {
    tone: "calm",
    stage: "idle",
    headline: "No account linked",
    sentence: "Link a WhatsApp account: you need the phone, and about half a minute.",
    start: "Link WhatsApp",
  },
  connecting: {
    tone: "wait",
    stage: "wait",
    headline: "Connecting to WhatsApp",
    sentence: "A code will appear in a moment.",
    end: "Cancel",
  },
  qr: { tone: "wait", stage: "qr", headline: "Scan this QR code", sentence: "A new code replaces it automatically.", end: "Cancel" },
  pairing_code: {
    tone: "wait",
    stage: "code",
    headline: "Enter this code on your phone",
    sentence: "WhatsApp asks for it under “Linked devices”.",
    end: "Cancel",
  },
  paired: {
    tone: "wait",
    stage: "wait",
    headline: "Code accepted",
    sentence: "WhatsApp is completing the link.",
    end: "Cancel",
  },
  connected: {
    tone: "good",
    stage: "good",
    headline: "Connected",
    sentence: "This account is linked. You can close this page; the account stays linked.",
    end: "Log out",
  },
  degraded: {
    tone: "warn",
    stage: "warn",
    headline: "Connection unstable",
    sentence: "WhatsApp does not respond. Nothing to do: the connection is being restored automatically.",
    end: "Log out",
  },
  disconnected: {
    tone: "warn",
    stage: "warn",
    headline: "Disconnected from WhatsApp",
    sentence: "The account is still linked. The backend is reconnecting.",
    end: "Log out",
  },
  qr_expired: {
    tone: "calm",
    stage: "idle",
    headline: "QR codes expired",
    sentence: "No code was scanned in time. Start again for new ones.",
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
    headline: "Session replaced",
    sentence: "Another program connected with the same session.",
    start: "Link WhatsApp",
    end: "Log out",
  },
  banned: {
    tone: "bad",
    stage: "bad",
    headline: "Account banned",
    sentence: "WhatsApp has blocked this account.",
    start: "Link WhatsApp",
    end: "Remove link",
  },
  client_outdated: {
    tone: "bad",
    stage: "bad",
    headline: "Backend outdated",
    sentence: "WhatsApp no longer accepts the backend's version. Its operator has to update it.",
  },
  failed: {
    tone: "bad",
    stage: "bad",
    headline: "Linking failed",
    sentence: "The account could not be linked.",
    start: "Link WhatsApp",
    end: "Remove link",
  },
};

/** A pairing that was called off is no failure. */
const CANCELLED = {
  ...STATES.logged_out,
  tone: "calm",
  stage: "idle",
  headline: "Linking cancelled",
  sentence: "No account was linked.",
};

/** What to show while nothing is known. */
const UNKNOWN = {
  signed_out: {
    tone: "calm",
    stage: "idle",
    headline: "Sign in",
    sentence: "Enter an access token above to see the link state of a bot.",
  },
  refused: { tone: "bad", stage: "bad", headline: "Access denied", sentence: "The backend refused this connection." },
  reconnecting: { tone: "warn", stage: "warn", headline: "Backend unreachable", sentence: "Trying to reconnect." },
  offline: { tone: "calm", stage: "warn", headline: "You are offline", sentence: "Go online to read the link state." },
};

/** The words for a view, given how the connection fares. */
export function stateOf(view, connection) {
  if (view.state === "unknown") return UNKNOWN[connection] ?? STATES.unknown;
  if (wasCancelled(view)) return CANCELLED;
  return STATES[view.state] ?? { ...STATES.unknown, headline: humane(view.state), sentence: "" };
}

/** The line over the headline. `away`: this is what the page knew before it lost the connection. */
export function eyebrowOf(view, away) {
  return away && view.state !== "unknown" ? "Last known state" : "WhatsApp";
}

/** What the person sees while the page cannot know what is true; null while it can. `heard` is a time of day. */
export function noticeWords(connection, heard) {
  const last = heard ? `This is the last known state, from ${heard}.` : "";
  switch (connection) {
    case "reconnecting":
      return `Disconnected from the backend. ${last} Reconnecting; until then nothing can be changed.`;
    case "offline":
      return `You are offline. ${last} Go online to change it.`;
    case "refused":
      return `The backend refused to reconnect. ${last}`;
    default:
      return null;
  }
}

/** What the person is asked before a link ends, null where nothing is lost by it. */
export function endingOf(view) {
  const { end } = STATES[view.state] ?? {};
  if (end === "Log out") {
    return {
      title: "Log out of this account?",
      text:
        "This device is removed from the WhatsApp account, and events stop. " +
        "To link the account again, a new code has to be scanned.",
      action: "Log out",
    };
  }
  if (end === "Remove link") {
    return {
      title: "Remove this link?",
      text: "The session is deleted from the backend. To link the account again, a new code has to be scanned.",
      action: "Remove link",
    };
  }
  return null;
}

/** The sentence under the headline: what the server advises where something failed, else the state's own. */
export function sentenceOf(view, words) {
  if (wasCancelled(view)) return words.sentence;
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
  return /\s/.test(action) ? action : `Suggested action: ${humane(action).toLowerCase()}.`;
}

export const STEPS = {
  qr: ["Open WhatsApp on your phone", "Settings → Linked devices → Link a device", "Point the camera at the code"],
  pairing_code: [
    "Open WhatsApp on your phone",
    "Settings → Linked devices → Link a device",
    "Link with phone number instead, then enter the code",
  ],
};

export const TITLES = {
  whatsapp_connecting: "Connecting",
  whatsapp_qr: "New QR code",
  whatsapp_pairing_code: "New pairing code",
  whatsapp_qr_expired: "QR codes expired",
  whatsapp_paired: "Code accepted",
  whatsapp_connected: "Connected",
  whatsapp_degraded: "Connection unstable",
  whatsapp_disconnected: "Disconnected",
  whatsapp_logged_out: "Logged out",
  whatsapp_replaced: "Session replaced",
  whatsapp_banned: "Account banned",
  whatsapp_client_outdated: "Backend outdated",
  whatsapp_failed: "Failed",
};

/** The view that an event announces. */
const viewOf = (event) => ({ state: event.type.replace("whatsapp_", ""), reasonCode: event.reasonCode });

export const titleOf = (event) =>
  wasCancelled(viewOf(event)) ? CANCELLED.headline : (TITLES[event.type] ?? humane(viewOf(event).state));

export const toneOf = (event) => (wasCancelled(viewOf(event)) ? "calm" : (STATES[viewOf(event).state]?.tone ?? "calm"));

/** What an event adds to its title. Codes are secrets and stay out of the list. */
export function detailOf(event) {
  const parts = [];
  if (event.total) parts.push(`code ${event.index} of ${event.total}`);
  if (event.displayName) parts.push(event.displayName);
  if (event.phoneNumber) parts.push(event.phoneNumber);
  if (event.first === true) parts.push("first connection");
  if (event.first === false) parts.push("reconnected");
  if (event.reasonCode) parts.push(humane(event.reasonCode).toLowerCase());
  if (event.until) parts.push(`until ${dayTime(event.until)}`);
  return parts.join(" · ");
}

export const ERRORS = {
  bot_id_missing: "The bot id is empty. Enter one.",
  bot_id_invalid: "The bot id is invalid: 1 to 128 printable characters, no spaces at either end.",
  user_id_invalid: "The user id is invalid: 1 to 128 printable characters, no spaces at either end.",
  too_many_sockets: "This bot is open in too many tabs or devices. Close one; this page reconnects automatically.",
  unauthorized: "The access token was rejected. Enter a new one.",
  forbidden: "Access to this bot is denied.",
  unavailable: "The backend is not ready. This page reconnects automatically.",
  unreachable: "The backend cannot be reached.",
  phone_number_invalid: "This is not a valid phone number. Start with the country code, like +44.",
  rate_limited: "Too many requests. Wait a moment, then try again.",
  too_many_links: "Too many links at once. Finish or remove one first.",
  outbox_unavailable: "The backend cannot store events now. Try again in a moment.",
  outbox_full: "The backend's event storage is full. Try again later.",
  store_unavailable: "The backend cannot store session keys now. Try again in a moment.",
  client_outdated: "WhatsApp no longer accepts the backend's version. Its operator has to update it.",
  banned: "WhatsApp has blocked this account. It can be linked again when the ban ends.",
  shutting_down: "The backend is shutting down. This page reconnects automatically.",
  not_simulated: "The simulated phone is not available with the real WhatsApp driver.",
  link_not_found: "No account is linked. Press “Link WhatsApp” first.",
  action_impossible: "The simulated phone cannot do that in this state.",
  http_404: "The backend does not know this address.",
  http_413: "The request is too large.",
  http_429: "Too many requests. Wait a moment, then try again.",
  http_500: "The backend failed. Its log has the details.",
  http_503: "The backend is not ready. Try again in a moment.",
};

/** Codes of which the server knows more than this page: its own sentence says what is wrong with the token. */
const SERVER_KNOWS = new Set(["unauthorized", "forbidden"]);

/** A problem as a sentence for a person. */
export function errorSentence({ code, message }) {
  if (message && SERVER_KNOWS.has(code)) return message;
  return ERRORS[code] ?? (message || `The backend refused: ${humane(code ?? "unknown").toLowerCase()}.`);
}

/** The token has expired and may be replaced for so many seconds. */
export const expiredWords = (seconds) =>
  `The access token has expired. Enter a new one within ${Math.round(seconds)} seconds to stay connected.`;

/** A bot without a link, while the same user has `others` (`{botId, state}`) with one. */
export function elsewhereWords(botId, others) {
  const list = others.map((bot) => `“${bot.botId}” (${humane(bot.state).toLowerCase()})`).join(", ");
  return `Nothing is linked under bot id “${botId}”, but you have a link under ${list}.`;
}

/** The connection in a few words: [tone, text]. */
export function connectionWords({ status, transport, attempt, node }) {
  switch (status) {
    case "connected":
      return ["good", `Live${transport ? ` via ${transport}` : ""}${node ? ` on ${node}` : ""}`];
    case "signed_out":
      return ["calm", "Signed out"];
    case "reconnecting":
      return ["warn", attempt ? `Reconnecting, attempt ${attempt}` : "Reconnecting"];
    case "offline":
      return ["calm", "Offline"];
    case "refused":
      return ["bad", "Refused"];
    default:
      return ["wait", "Connecting"];
  }
}

export const PHONE_ACTIONS = {
  scan: "Scan the code",
  disconnect: "Lose the network",
  reconnect: "Reconnect",
  logout: "Log out on the phone",
  replace: "Replace the session",
  ban: "Ban the account",
  expire: "Let the codes expire",
  degrade: "Miss a keep-alive",
  restore: "Respond again",
  outdated: "Reject the version",
  crash: "Worker crashes",
  hang: "Worker hangs",
  unreachable: "WhatsApp unreachable",
  connect_failure: "Refuse to connect",
  stream_error: "Stream error",
  flap: "Flap",
  die_silently: "Stop without notice",
};

const OUTCOMES = {
  pending: "Not confirmed yet.",
  acked: "Acknowledged by a client.",
  received: "Received by a client.",
  superseded: "Superseded by a newer event.",
  expired: "Expired before delivery.",
  discarded: "Discarded.",
};

export const outcomeWords = (outcome) => OUTCOMES[outcome] ?? `${humane(outcome)}.`;

/** What to say once the phone has done something. */
export function doneWords(action, away) {
  if (action === "disconnect") return "Done. A disconnect is reported once it has lasted some seconds.";
  return away ? "Done. The events are replayed when you go online." : "Done.";
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
