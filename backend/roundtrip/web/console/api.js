// The admin listener's JSON. A change carries the console's token, see the state.
import { store } from "/static/store.js";

export async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  const data = await response.json().catch(() => null);
  return { status: response.status, ok: response.ok, data };
}

export async function change(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: { "Content-Type": "application/json", "X-Console-Token": store.state?.token ?? "" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const data = await response.json().catch(() => null);
  return { status: response.status, ok: response.ok, data };
}
