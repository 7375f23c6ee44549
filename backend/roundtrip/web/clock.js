// The server's time on this machine: expiries are the server's, and this machine's clock may be wrong.

const TOLERANCE = 2000; // ms; an HTTP Date has whole seconds, so a smaller difference says nothing

let offset = 0;

/** Learn from an HTTP response's `Date` header. */
export function learn(dateHeader) {
  const server = Date.parse(dateHeader ?? "");
  if (Number.isNaN(server)) return;
  const difference = server + 500 - Date.now();
  offset = Math.abs(difference) > TOLERANCE ? difference : 0;
}

/** The server's time, in ms since the epoch. */
export function now() {
  return Date.now() + offset;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** `14:03:07` in the reader's time zone. */
export function clockTime(iso) {
  return TIME.format(new Date(iso));
}

/** `14:03:07.120`: the steps of an event lie milliseconds apart. */
export function exactTime(iso) {
  const ms = new Date(iso).getMilliseconds();
  return `${clockTime(iso)}.${String(ms).padStart(3, "0")}`;
}

/** A day and a time, for what lies further off. */
export function dayTime(iso) {
  return DAY.format(new Date(iso));
}

/** A duration in words that fit a badge: `8 ms`, `3.2 s`, `4 min`, `2 h`. */
export function duration(ms) {
  const span = Math.max(0, ms);
  if (span < 1000) return `${Math.round(span)} ms`;
  if (span < 10_000) return `${(span / 1000).toFixed(1)} s`;
  if (span < 120_000) return `${Math.round(span / 1000)} s`;
  if (span < 7_200_000) return `${Math.round(span / 60_000)} min`;
  return `${Math.round(span / 3_600_000)} h`;
}
