/**
 * Roundtrip's typed client: one bot's link, live. It renews tokens, drops duplicates, handles events in order,
 * acknowledges what was handled, and says when what it shows is stale. A stock socket.io-client works too:
 * this is convenience, not protocol.
 */

import { io as connect, type Socket } from "socket.io-client";
import { withEvent, type ConnectionEvent, type Snapshot } from "./events.js";

export * from "./events.js";

/** Asked at each connect and renewal; may reject, and is asked again. `fresh`: a cached token will not do. */
export type GetToken = (ask: { fresh: boolean }) => string | Promise<string>;

export interface Options {
  /** The backend's origin; the page's own by default. */
  url?: string;
  botId: string;
  /** With `ROUNDTRIP_AUTH=jwt`. */
  getToken?: GetToken;
  /** With `ROUNDTRIP_AUTH=trusted`, for development. */
  userId?: string;
  /** Called for each event once, in order, one after the other; acknowledged when it returns. If it throws, the event
   * comes again. */
  onEvent?: (event: ConnectionEvent) => void | Promise<void>;
  /** Milliseconds between attempts: doubles from the first to the last. */
  retry?: { first: number; last: number };
}

/** `code` is the backend's, or `token_failed` (`getToken` rejected), `token_not_renewed`, `unreachable`, `handler_failed`. */
export class RoundtripError extends Error {
  constructor(readonly code: string, message: string, readonly status?: number) {
    super(message);
    this.name = "RoundtripError";
  }
}

/**
 * - `connecting`: nothing is known yet, an attempt is under way
 * - `live`: connected, `snapshot` is current
 * - `stale`: the connection is lost; `snapshot` is what was last known, attempts go on
 * - `offline`: no attempt has succeeded yet, attempts go on
 * - `refused`: the backend refuses; `error` says why, and only `start()` tries again
 * - `stopped`: not started, or `stop()` was called
 */
export type Status = "connecting" | "live" | "stale" | "offline" | "refused" | "stopped";

export interface State {
  readonly status: Status;
  readonly snapshot: Snapshot | null;
  /** The newest last, at most `MAX_EVENTS`. */
  readonly events: readonly ConnectionEvent[];
  /** Why the newest attempt failed; null while all is well. */
  readonly error: RoundtripError | null;
  /** When the backend was last heard, in ms since the epoch. */
  readonly heardAt: number | null;
}

export const MAX_EVENTS = 100;
const MAX_SEEN = 10_000;
const MAX_UNAUTHORIZED = 3;
const FINAL = new Set(["forbidden", "bot_id_missing", "bot_id_invalid", "user_id_invalid"]);
const EMPTY: State = { status: "stopped", snapshot: null, events: [], error: null, heardAt: null };

export class RoundtripClient {
  #options: Options;
  #state: State = EMPTY;
  #socket: Socket | null = null;
  #listeners = new Set<() => void>();
  #seen = new Set<string>();
  #handling: Promise<void> = Promise.resolve();
  #failures = 0;
  #unauthorized = 0;
  #attempt = 0;
  #expiry: number | null = null;
  #accepted: string | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #renewal: ReturnType<typeof setTimeout> | undefined;

  constructor(options: Options) {
    this.#options = options;
  }

  /** The present state: a new object after each change, so that it can be compared by identity. */
  getState = (): State => this.#state;

  /** Call `listener` after each change; the result ends that. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  /** Connect, and stay connected until `stop()`. */
  start(): void {
    this.#close();
    this.#failures = this.#unauthorized = 0;
    const socket = connect(this.#options.url ?? "", {
      forceNew: true,
      autoConnect: false,
      reconnectionDelay: this.#pace.first,
      reconnectionDelayMax: this.#pace.last,
      auth: (send) => void this.#authenticate(send),
    });
    this.#socket = socket;
    socket.on("connect_error", (error: Error & { data?: { code?: string } }) => {
      if (error.data?.code) this.#refused(new RoundtripError(error.data.code, error.message));
      else this.#lost(new RoundtripError("unreachable", error.message)); // socket.io-client tries again by itself
    });
    socket.on("disconnect", (reason) => {
      clearTimeout(this.#renewal);
      if (reason === "io client disconnect") return;
      this.#lost(new RoundtripError("unreachable", `The connection was lost (${reason}).`));
      if (reason === "io server disconnect") this.#later(); // socket.io-client leaves that one to us
    });
    socket.on("whatsapp_status_update", (snapshot: Snapshot) => this.#handle(async () => this.#show(snapshot)));
    socket.on("whatsapp_connection_event", (event: ConnectionEvent, ack?: () => void) =>
      this.#handle(() => this.#take(event, ack)),
    );
    socket.on("auth_expired", () => void this.#renew());
    this.#set({ status: this.#unheard ? "connecting" : "stale", error: null });
    socket.connect();
  }

  /** Disconnect. What is known stays readable, as `stopped`. */
  stop(): void {
    this.#close();
    this.#set({ status: "stopped", error: null });
  }

  /** Link an account: a QR code follows as an event; with a phone number in international form, a code to type. */
  link(phoneNumber?: string): Promise<{ linkId: string; state: string }> {
    return this.#command("PUT", phoneNumber === undefined ? {} : { phoneNumber });
  }

  /** Log out: remove this device from the WhatsApp account. */
  logOut(): Promise<Snapshot> {
    return this.#command("DELETE");
  }

  get #pace(): { first: number; last: number } {
    return this.#options.retry ?? { first: 1000, last: 30_000 };
  }

  get #unheard(): boolean {
    return this.#state.snapshot === null;
  }

  #set(change: Partial<State>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of [...this.#listeners]) listener();
  }

  #close(): void {
    this.#attempt += 1;
    clearTimeout(this.#retry);
    clearTimeout(this.#renewal);
    this.#socket?.off().disconnect();
    this.#socket = null;
  }

  // the token

  async #authenticate(send: (auth: object) => void): Promise<void> {
    const attempt = (this.#attempt += 1);
    const { botId, userId } = this.#options;
    try {
      const token = await this.#token(this.#unauthorized > 0);
      if (attempt !== this.#attempt) return;
      this.#accepted = token;
      send({ botId, acks: true, ...(token === undefined ? { userId } : { token }) });
      if (token !== undefined) this.#renewBefore(expiryOf(token));
    } catch (error) {
      if (attempt !== this.#attempt) return;
      this.#lost(error as RoundtripError);
      this.#socket?.disconnect();
      this.#later();
    }
  }

  async #token(fresh: boolean): Promise<string | undefined> {
    try {
      return await this.#options.getToken?.({ fresh });
    } catch (error) {
      throw new RoundtripError("token_failed", `The access token could not be read: ${(error as Error)?.message ?? error}`);
    }
  }

  /** `expiry` in ms since the epoch. A last quarter of the token's life, at most a minute, is kept for the renewal. */
  #renewBefore(expiry: number | null): void {
    clearTimeout(this.#renewal);
    this.#expiry = expiry;
    const left = (expiry ?? 0) - Date.now();
    if (left <= 0) return; // unknown, or this machine's clock is wrong: the backend says when it has expired
    const wait = Math.min(left - Math.min(left / 4, 60_000), 2 ** 31 - 1);
    this.#renewal = setTimeout(() => void this.#renew(), wait);
  }

  async #renew(): Promise<void> {
    const socket = this.#socket;
    if (!socket?.connected) return; // the next handshake brings a token of its own
    try {
      const token = await this.#token(true);
      const answer = await socket.timeout(10_000).emitWithAck("auth", { token });
      if (socket !== this.#socket || token === undefined) return;
      if (answer?.ok) {
        const expiry = answer.expiresAt === undefined ? expiryOf(token) : Date.parse(answer.expiresAt);
        if (expiry !== null && expiry <= (this.#expiry ?? 0)) {
          throw new RoundtripError("token_not_renewed", "The new access token expires no later than the one before.");
        }
        this.#failures = this.#unauthorized = 0;
        this.#accepted = token;
        this.#set({ error: null });
        this.#renewBefore(expiry);
      } else if (answer?.code === "forbidden") {
        this.#set({ ...EMPTY }); // another user has signed in: nothing of the one before stays
        this.#seen.clear();
        this.start();
      } else throw new RoundtripError(answer?.code ?? "unavailable", answer?.message ?? "The token was not renewed.");
    } catch (error) {
      if (socket !== this.#socket) return;
      const known = error instanceof RoundtripError ? error : new RoundtripError("unreachable", "The renewal got no answer.");
      this.#set({ error: known });
      this.#renewal = setTimeout(() => void this.#renew(), this.#delay());
    }
  }

  // the connection

  #lost(error: RoundtripError): void {
    const status = this.#unheard ? "offline" : "stale";
    this.#set({ status, error });
  }

  #refused(error: RoundtripError): void {
    if (error.code === "unauthorized") this.#unauthorized += 1;
    if (FINAL.has(error.code) || this.#unauthorized > MAX_UNAUTHORIZED || (this.#unauthorized && !this.#options.getToken)) {
      this.#close();
      this.#set({ status: "refused", error });
      return;
    }
    this.#lost(error);
    this.#later();
  }

  #later(): void {
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#socket?.connect(), this.#delay());
  }

  #delay(): number {
    const { first, last } = this.#pace;
    const delay = Math.min(last, first * 2 ** this.#failures);
    this.#failures += 1;
    return delay * (0.75 + Math.random() / 2); // clients that were refused together do not come back together
  }

  // what arrives

  /** One thing after the other: an event's handler may be asynchronous, and order is promised. */
  #handle(work: () => Promise<void>): void {
    const socket = this.#socket;
    this.#handling = this.#handling.then(() => (socket === this.#socket ? work() : undefined)).catch(() => undefined);
  }

  #show(snapshot: Snapshot): void {
    this.#failures = this.#unauthorized = 0;
    const another = this.#state.snapshot !== null && this.#state.snapshot.userId !== snapshot.userId;
    this.#set({ status: "live", snapshot, error: null, heardAt: Date.now(), ...(another ? { events: [] } : {}) });
  }

  async #take(event: ConnectionEvent, ack?: () => void): Promise<void> {
    const socket = this.#socket;
    if (!this.#seen.has(event.id)) {
      try {
        await this.#options.onEvent?.(event);
      } catch (error) {
        this.#set({ error: new RoundtripError("handler_failed", String((error as Error)?.message ?? error)) });
        return; // not acknowledged: the backend sends it again
      }
      if (socket !== this.#socket) return; // stopped meanwhile, or another user has signed in
      this.#seen.add(event.id);
      if (this.#seen.size > MAX_SEEN) this.#seen.delete(this.#seen.values().next().value as string);
      const { snapshot, events } = this.#state;
      this.#set({
        snapshot: snapshot && withEvent(snapshot, event),
        events: [...events, event].slice(-MAX_EVENTS),
        heardAt: Date.now(),
      });
    }
    ack?.(); // a duplicate too: the backend has not heard the first acknowledgement
  }

  async #command<T>(method: string, body?: object): Promise<T> {
    const { url = "", botId, userId } = this.#options;
    // the connection's own token, so that a command is never another user's than what is shown
    const token = this.#state.status === "live" ? this.#accepted : await this.#token(false);
    const headers: Record<string, string> = token === undefined ? { "X-User-Id": userId ?? "" } : { Authorization: `Bearer ${token}` };
    if (body) headers["Content-Type"] = "application/json";
    const address = `${url}/api/bots/${encodeURIComponent(botId)}/link`;
    const response = await fetch(address, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) }).catch((error) => {
      throw new RoundtripError("unreachable", String(error));
    });
    const data = await response.json().catch(() => ({}));
    if (!response.ok) throw new RoundtripError(data.code ?? `http_${response.status}`, data.detail ?? response.statusText, response.status);
    return data as T;
  }
}

/** A JWT's expiry in ms since the epoch, unverified; null where it cannot be read. */
function expiryOf(token: string): number | null {
  try {
    const payload = JSON.parse(atob(token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
    return typeof payload.exp === "number" ? payload.exp * 1000 : null;
  } catch {
    return null;
  }
}
