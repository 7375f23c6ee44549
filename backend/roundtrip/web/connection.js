// The socket: connects, acknowledges, drops what it has seen, and says how the connection fares.

import { io } from "./vendor/socket.io.esm.min.js";

const RETRY_AFTER_REFUSAL = 3000; // ms; only for refusals that pass by themselves
const PASSING = new Set(["too_many_sockets", "unavailable", "rate_limited"]);

/** `status` is one of signed_out, connecting, connected, reconnecting, offline, refused. */
export class Connection extends EventTarget {
  #socket = null;
  #retry = 0;
  #identity = null;
  #seen = new Set();
  #held = [];
  #asksNode;
  status = "connecting";
  /** When the server was last heard, in ms since the epoch; null before. */
  heardAt = null;
  /** The node of a shared store that holds this connection, as it says itself; null where there is one node. */
  node = null;

  /** `asksNode`: the backend may be one of several nodes. */
  constructor(asksNode = false) {
    super();
    this.#asksNode = asksNode;
  }

  /** Whom this connection speaks for, null without one. HTTP uses the same: what is shown and what is done are one
   * user's. */
  get identity() {
    return this.#identity;
  }

  /** From now on, and what was held so far: events, snapshots and statuses go to the listeners. */
  release() {
    const held = this.#held;
    this.#held = null;
    for (const [type, detail] of held) this.#tell(type, detail);
  }

  /** Connect under these ids; a connection under others ends. */
  open(identity) {
    this.close();
    this.#identity = { ...identity };
    this.#seen = new Set();
    this.heardAt = null;
    const socket = io({
      path: "/socket.io/",
      forceNew: true,
      transports: ["websocket", "polling"], // one round trip instead of three, and polling where that is blocked
      tryAllTransports: true,
      reconnectionDelay: 500,
      reconnectionDelayMax: 5000,
      auth: (send) => send(handshake(this.#identity)),
    });
    this.#socket = socket;
    socket.on("connect", () => {
      this.node = null;
      this.#say("connected");
      if (this.#asksNode) socket.emit("node", (answer) => this.#isOn(answer.node));
      socket.io.engine.on("upgrade", () => this.#say("connected"));
    });
    socket.on("disconnect", (reason) => {
      if (reason === "io client disconnect") return;
      this.#say("reconnecting");
      if (reason === "io server disconnect") this.#later(1000); // the client leaves that one to us
    });
    socket.on("connect_error", (error) => {
      if (socket.active) {
        this.#say("reconnecting");
        return;
      }
      const code = error.data?.code ?? "refused";
      this.#say("refused", { code, message: error.message });
      if (PASSING.has(code)) this.#later(RETRY_AFTER_REFUSAL);
    });
    socket.io.on("reconnect_attempt", (attempt) => this.#say("reconnecting", { attempt }));
    socket.on("whatsapp_connection_event", (event, acknowledge) => {
      this.heardAt = Date.now();
      acknowledge?.(); // also one seen before: the server asks because it did not hear the first answer
      if (this.#seen.has(event.id)) return;
      this.#seen.add(event.id);
      this.#tell("event", event);
    });
    socket.on("auth_expired", ({ graceSeconds }) => {
      this.#tell("expired", { graceSeconds });
    });
    socket.on("whatsapp_status_update", (snapshot) => {
      this.heardAt = Date.now();
      this.#tell("snapshot", snapshot);
    });
    this.#say("connecting");
  }

  /** Hand in a fresh token for this connection. The answer is `{ok, code?, message?}`; only if it is ok is the token used. */
  async renew(token) {
    const socket = this.#socket;
    const answer = await socket.timeout(5000).emitWithAck("auth", { token });
    if (answer.ok && socket === this.#socket) this.#identity.token = token; // also for the next handshake
    return answer;
  }

  /** Whether a new token may be meant for this connection: it stands, and is of the same bot. */
  canRenew(botId) {
    return this.status === "connected" && this.#identity?.botId === botId;
  }

  /** Nobody to speak for. */
  signOut() {
    this.close();
    this.#say("signed_out");
  }

  /** Leave on purpose; `comeBack` returns under the same ids, and what was seen stays seen. */
  goOffline() {
    clearTimeout(this.#retry);
    this.#socket?.disconnect();
    this.#say("offline");
  }

  comeBack() {
    this.#say("connecting");
    this.#socket?.connect();
  }

  /** How the bytes travel: `websocket`, `polling`, or null while there is no connection. */
  get transport() {
    return this.#socket?.connected ? this.#socket.io.engine.transport.name : null;
  }

  close() {
    clearTimeout(this.#retry);
    this.#socket?.removeAllListeners();
    this.#socket?.io.removeAllListeners();
    this.#socket?.disconnect();
    this.#socket = null;
    this.#identity = null;
  }

  #isOn(node) {
    this.node = node;
    this.#say("connected");
  }

  #later(ms) {
    clearTimeout(this.#retry);
    const socket = this.#socket;
    this.#retry = setTimeout(() => socket === this.#socket && socket?.connect(), ms);
  }

  #say(status, more = {}) {
    this.status = status;
    this.#tell("status", { status, transport: this.transport, node: this.node, ...more });
  }

  #tell(type, detail) {
    if (this.#held) this.#held.push([type, detail]);
    else this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** `acks: true` is a promise: every event is acknowledged, so one that is not is tried again. */
function handshake(identity) {
  const who = identity.token === undefined ? { userId: identity.userId } : { token: identity.token };
  return { ...who, botId: identity.botId, acks: true };
}
