/** What the backend sends, as docs/asyncapi.json describes it; a test compares the two. */

/** Fields of every event. `id` is a UUIDv7, `seq` grows by one per user and bot, times are RFC 3339 UTC. */
export interface Envelope {
  id: string;
  seq: number;
  userId: string;
  botId: string;
  linkId: string;
  timestamp: string;
  /** Sent before, or stored while no socket was connected. */
  replayed: boolean;
  /** From 1. */
  attempt: number;
  traceparent: string;
}

export type ReasonCode =
  | "account_banned"
  | "also_linked_elsewhere"
  | "banned"
  | "banned_blocked_by_users"
  | "banned_broadcast_lists"
  | "banned_same_messages"
  | "banned_too_many_groups"
  | "banned_too_many_people"
  | "cancelled"
  | "client_outdated"
  | "connect_failure"
  | "connection_lost"
  | "device_removed"
  | "flapping"
  | "internal_error"
  | "keepalive_lost"
  | "logged_out_by_whatsapp"
  | "pairing_code_refused"
  | "pairing_incomplete"
  | "primary_device_gone"
  | "rate_limited"
  | "replaced"
  | "requested"
  | "store_corrupt"
  | "store_missing"
  | "unreachable"
  | "session_crashes"
  | "worker_crashed";

/** What every failure says: a code for programs, whether a retry can help, and a sentence for the user. */
export interface Failure {
  reasonCode: ReasonCode;
  retryable: boolean;
  userAction: string;
}

interface Own {
  whatsapp_connecting: { alsoLinkedElsewhere?: boolean };
  /** `qr` is a secret: draw it until `expiresAt`, never store or log it. */
  whatsapp_qr: { qr: string; index: number; total: number; expiresAt: string };
  /** `pairingCode` is a secret, as a QR code is. */
  whatsapp_pairing_code: { pairingCode: string; expiresAt: string };
  whatsapp_qr_expired: unknown;
  whatsapp_paired: { phoneNumber: string };
  whatsapp_connected: { phoneNumber: string; displayName: string; first: boolean; alsoLinkedElsewhere?: boolean };
  whatsapp_degraded: Failure;
  whatsapp_disconnected: Failure;
  whatsapp_logged_out: Failure & { deviceRemoved?: boolean };
  whatsapp_replaced: Failure;
  whatsapp_banned: Failure & { until: string | null; retryAt?: string };
  whatsapp_client_outdated: Failure;
  whatsapp_failed: Failure;
}

export type EventType = keyof Own;

/** The union of all events: `switch (event.type)` narrows it. */
export type ConnectionEvent = { [T in EventType]: Envelope & { type: T } & Own[T] }[EventType];

/** One type of event: `EventOf<"whatsapp_qr">`. */
export type EventOf<T extends EventType> = Extract<ConnectionEvent, { type: T }>;

export type LinkState =
  | "idle"
  | "connecting"
  | "qr"
  | "pairing_code"
  | "paired"
  | "connected"
  | "degraded"
  | "disconnected"
  | "qr_expired"
  | "logged_out"
  | "replaced"
  | "banned"
  | "client_outdated"
  | "failed";

/** What is true of a link now; a field without a value is left out. */
export interface Snapshot {
  userId: string;
  botId: string;
  linkId: string | null;
  state: LinkState;
  /** Of the key's newest event. */
  seq: number;
  since: string;
  phoneNumber?: string;
  displayName?: string;
  qr?: string;
  pairingCode?: string;
  expiresAt?: string;
  index?: number;
  total?: number;
  reasonCode?: ReasonCode;
  retryable?: boolean;
  userAction?: string;
  until?: string;
  retryAt?: string;
  alsoLinkedElsewhere?: boolean;
  deviceRemoved?: boolean;
  /** The store is away: this is what was true last. */
  stale?: boolean;
}

const PREFIX = "whatsapp_";

/** States in which the account is the link's still. */
const LINKED: ReadonlySet<LinkState> = new Set<LinkState>([
  "connecting", "paired", "connected", "degraded", "disconnected", "replaced", "banned",
]);

/** The snapshot after an event; the same one where it covers the event already (a replay of the past). */
export function withEvent(before: Snapshot, event: ConnectionEvent): Snapshot {
  if (event.seq <= before.seq) return before;
  const { id, type, timestamp, replayed, attempt, traceparent, ...fields } = event;
  const state = type.slice(PREFIX.length) as LinkState;
  const account = event.linkId === before.linkId && LINKED.has(state)
    ? { phoneNumber: before.phoneNumber, displayName: before.displayName }
    : {};
  const known = Object.entries({ ...account, ...fields }).filter(([, value]) => value !== undefined && value !== null);
  return { ...Object.fromEntries(known), state, since: timestamp } as Snapshot;
}
