// What the page believes about the link: a pure function of snapshots and events.

export const UNKNOWN = Object.freeze({ state: "unknown", seq: 0 });

const PREFIX = "whatsapp_";
const ACCOUNT = ["phoneNumber", "displayName"];
const KEEPS_ACCOUNT = new Set(["connecting", "paired", "connected", "degraded", "disconnected", "replaced", "banned"]);

/** A snapshot is the truth: it replaces everything. */
export function withSnapshot(_view, snapshot) {
  return { ...snapshot };
}

/**
 * A newer event moves the view on. An older one (a replay of what the snapshot already covers) is history: it
 * belongs in the timeline and changes nothing here.
 */
export function withEvent(view, event) {
  if (event.seq <= view.seq) return view;
  const state = event.type.slice(PREFIX.length);
  const next = { ...event, state, since: event.timestamp };
  if (event.linkId === view.linkId && KEEPS_ACCOUNT.has(state)) {
    for (const field of ACCOUNT) next[field] ??= view[field];
  }
  return next;
}

/** Whether a link ended before it was ever paired: the person changed their mind, nothing was lost. */
export const wasCancelled = ({ state, reasonCode }) => state === "logged_out" && reasonCode === "cancelled";

/** The answer to `PUT …/link`: shown until the first event says more. */
export function withAnswer(view, answer) {
  if (view.linkId === answer.linkId) return view;
  return { ...view, linkId: answer.linkId, state: answer.state, since: new Date().toISOString() };
}
