// What the console knows: the whole state first, then what changes, by server-sent events. A tab in the background
// hears nothing, hence costs nothing; when it is looked at again it gets the state anew.
import { get } from "/static/api.js";

const STALE_AFTER = 5000;
const POINTS = 180;

export const store = {
  state: null,
  status: "connecting", // connecting | live | stale | paused | login
  heard: 0,
  flash: new Set(),
};

const observers = new Set();
let source = null;
let timer = 0;

export function subscribe(observer) {
  observers.add(observer);
  return () => observers.delete(observer);
}

function changed() {
  for (const observer of observers) observer();
}

export function start() {
  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : open()));
  window.addEventListener("pagehide", pause);
  window.addEventListener("pageshow", (shown) => shown.persisted && open());
  setInterval(watch, 1000);
  if (!document.hidden) open();
}

export function open() {
  if (source) return;
  clearTimeout(timer);
  store.status = store.state ? "stale" : "connecting";
  source = new EventSource("/debug/console/stream");
  source.addEventListener("state", (message) => take(JSON.parse(message.data)));
  source.addEventListener("tick", (message) => tick(JSON.parse(message.data)));
  source.addEventListener("miss", (message) => miss(JSON.parse(message.data)));
  source.onerror = async () => {
    if (!source || source.readyState !== EventSource.CLOSED) return; // it tries again by itself
    close();
    const answer = await get("/debug/console.json").catch(() => null);
    if (answer?.status === 401) return loginNeeded();
    timer = setTimeout(open, 2000);
    changed();
  };
  changed();
}

export function loginNeeded() {
  close();
  store.status = "login";
  store.state = null;
  changed();
}

function close() {
  source?.close();
  source = null;
}

function pause() {
  close();
  clearTimeout(timer);
  if (store.status !== "login") store.status = "paused";
}

function watch() {
  if (store.status !== "live" && store.status !== "stale") return;
  const stale = Date.now() - store.heard > STALE_AFTER;
  store.status = stale ? "stale" : "live";
  if (stale) changed();
}

function hear() {
  store.heard = Date.now();
  store.status = "live";
}

function take(state) {
  store.state = state;
  hear();
  changed();
}

function tick(sections) {
  if (!store.state) return;
  Object.assign(store.state, sections);
  const { series, point } = store.state;
  if (point && point.at > (series.at.at(-1) ?? 0) + 1) {
    for (const [name, values] of Object.entries(series)) {
      values.push(point[name] ?? null);
      if (values.length > POINTS) values.shift();
    }
  }
  hear();
  changed();
}

function miss(note) {
  if (!store.state) return;
  const { misses } = store.state;
  misses.newest = [note, ...misses.newest.filter((other) => other.eventId !== note.eventId)].slice(0, 100);
  hear();
  changed();
}
