// Every text of the console that is not made by the backend. Names and units are those of the metrics and dashboards.

export const VIEWS = [
  ["", "Overview"],
  ["misses", "Misses"],
  ["traces", "Traces"],
  ["sockets", "Sockets"],
  ["links", "Links"],
  ["health", "Health"],
  ["faults", "Faults"],
];

export const LEVELS = {
  critical: { sign: "✕", word: "Critical" },
  warning: { sign: "!", word: "Warning" },
  info: { sign: "i", word: "Note" },
  ok: { sign: "✓", word: "All well" },
};

export const REASONS = {
  key_mismatch: {
    says: "The same user is connected, but under another bot id: emitter and page build the socket's key differently.",
    todo: "Compare the two keys. Make page and caller use the same botId; it must not be left out, nor equal the user id.",
  },
  other_bot_connected: {
    says: "The user's page is open for another bot, which has a link of its own. An ordinary day.",
    todo: "Nothing: the event is sent when the page of this bot opens.",
  },
  never_connected: {
    says: "No socket of this key was seen in the last day.",
    todo: "Is the page open? Does it connect with this userId and botId? The event is sent when it does.",
  },
  just_disconnected: {
    says: "The last socket of this key left less than 30 s before, or while the event was on its way.",
    todo: "A reload is harmless: the page comes back and gets it. If it goes on, see why sockets leave: proxy timeouts, pings, a page that reconnects in a loop.",
  },
  disconnected: {
    says: "The last socket of this key left some time ago.",
    todo: "Nothing: the event is sent when the page comes back.",
  },
  ack_timeout: {
    says: "It was sent to a socket and not confirmed within the acknowledgement timeout.",
    todo: "Does the page's handler call its acknowledgement, for every event and also when it throws? Without `acks: true` a transport receipt is enough.",
  },
  queue_full: {
    says: "The client reads too slowly: its queue was full, and the socket was closed.",
    todo: "Look at the client's network, and at a handler that blocks the page.",
  },
  send_failed: {
    says: "The socket that the key is mapped to is gone: a stale mapping, or a connection that broke.",
    todo: "If the page believes that it is connected, the mapping is stale: somebody removed the wrong socket of this key.",
  },
};

export const OUTCOMES = {
  pending: "waits for a confirmation",
  acked: "the application acknowledged it",
  received: "the transport confirmed it",
  superseded: "a newer event superseded it",
  expired: "nobody came for it in time",
  discarded: "discarded on request",
};

export const CHARTS = [
  { title: "Emits", unit: "/s", series: [["found", "found", "good"], ["missing", "missing", "bad"]] },
  { title: "Delivery time", unit: "s", series: [["p50", "p50", "one"], ["p99", "p99", "two"]] },
  { title: "Pending events", unit: "", series: [["pending", "pending", "one"]] },
  { title: "Oldest pending event", unit: "s", series: [["oldest", "age", "two"]] },
  { title: "Sockets and keys", unit: "", series: [["sockets", "sockets", "one"], ["keys", "mapped keys", "two"]] },
  { title: "Connects and disconnects", unit: "/s", series: [["came", "connects", "good"], ["left", "disconnects", "bad"]] },
  { title: "Links connected", unit: "", series: [["connected", "connected", "good"]] },
  { title: "Event loop lag, p99", unit: "s", series: [["lag", "lag", "one"]] },
  { title: "Outbox write time, p90", unit: "s", series: [["write", "write", "two"]] },
];

export const CHURN = CHARTS[5];

export const STALE = (seconds) => `Stale: nothing heard for ${seconds} s. Connecting again…`;
export const NOTHING_MISSED = "Nothing has missed within the last hour.";
export const NO_RING = "No traces are kept: ROUNDTRIP_TRACE_RING_BYTES is 0.";
export const NO_TRACE = "Nothing of this trace is kept here: it is too old, a plain success that was not sampled, or of another process.";
export const NO_SPANS = "No span of this event is kept: it is older than the ring, or a plain success that was not sampled. The ledger above has its whole story.";
export const LOGIN_HINT = "The key is ROUNDTRIP_ADMIN_KEY of the backend. The session lasts eight hours and ends with the process.";
export const FAULTS_FORBIDDEN = "Faults are for development: this backend does not allow them (AUTH=trusted or ROUNDTRIP_ALLOW_FAULTS=true does).";
export const RUNBOOK = (name) => `dashboards/runbooks/${name}.md`;

export const NEEDS_PERSON = new Set(["disconnected", "logged_out", "replaced", "banned", "client_outdated", "failed"]);

export const PAGE_PROCESSED = "By its own span, a page processed it in";
export const PAGE_FAILED = "By its own span, a page failed to process it, after";
