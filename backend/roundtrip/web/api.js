// HTTP: one function per route of the contract. Every failure is a `Problem` with a code.

import { learn } from "./clock.js";

/** What went wrong, as the server's problem document (RFC 9457) says it, or as the network failed. */
export class Problem extends Error {
  constructor(code, message, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

function headersOf(identity) {
  const headers = { Accept: "application/json" };
  if (identity?.token) headers.Authorization = `Bearer ${identity.token}`;
  else if (identity?.userId !== undefined) headers["X-User-Id"] = identity.userId;
  return headers;
}

async function call(identity, method, path, body) {
  const headers = headersOf(identity);
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    // fetch says TypeError both for a header that cannot be sent and for a server that does not answer
    const unsendable = /[^\x20-\xff]/.test(identity?.userId ?? "");
    throw unsendable
      ? new Problem("user_id_invalid", "A browser can only send plain letters as a user id.")
      : new Problem("unreachable", String(error));
  }
  learn(response.headers.get("Date"));
  const text = await response.text();
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
  } catch {
    // not ours: a proxy's page, say; the status still tells
  }
  if (!response.ok) {
    throw new Problem(data?.code ?? `http_${response.status}`, data?.detail ?? data?.title ?? "", response.status);
  }
  return data;
}

const bot = (identity) => `/api/bots/${encodeURIComponent(identity.botId)}`;

export const readConfig = () => call(null, "GET", "/api/config");
export const readBots = (identity) => call(identity, "GET", "/api/bots");
export const readEvents = (identity, after, limit) =>
  call(identity, "GET", `${bot(identity)}/events?after=${after}&limit=${limit}`);
export const startLink = (identity, phoneNumber) =>
  call(identity, "PUT", `${bot(identity)}/link`, phoneNumber ? { phoneNumber } : {});
export const endLink = (identity) => call(identity, "DELETE", `${bot(identity)}/link`);
export const simulate = (identity, action) => call(identity, "POST", `${bot(identity)}/link/simulate`, { action });
export const readEvent = (identity, id) => call(identity, "GET", `/api/events/${encodeURIComponent(id)}`);
export const readFaults = () => call(null, "GET", "/api/faults");
export const setFault = (name, on) => call(null, on ? "PUT" : "DELETE", `/api/faults/${encodeURIComponent(name)}`);

/** Send spans, even while the page closes; the response's status. */
export async function sendSpans(identity, request) {
  const headers = { ...headersOf(identity), "Content-Type": "application/json" };
  const options = { method: "POST", keepalive: true, headers, body: JSON.stringify(request) };
  return (await fetch("/otlp/v1/traces", options)).status;
}
