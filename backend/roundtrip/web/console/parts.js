// What several views are made of.
import { get } from "/static/api.js";
import { Component, html } from "/static/html.js";
import { loginNeeded, store } from "/static/store.js";
import { LEVELS, REASONS } from "/static/words.js";

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** A time of this day, or with its day; `at` in milliseconds since the epoch, or RFC 3339. */
export function Time({ at }) {
  if (at === null || at === undefined) return null;
  const date = new Date(at);
  const today = Date.now() - date < 12 * 3600e3;
  return html`<time datetime=${date.toISOString()} title=${date.toISOString()}>${(today ? clock : day).format(date)}</time>`;
}

/** Seconds in the unit that fits. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${+(seconds * 1000).toPrecision(3)} ms`;
  if (seconds < 120) return `${+seconds.toPrecision(3)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; count >= 1024 && unit < 3; unit += 1) count /= 1024;
  return `${+count.toPrecision(3)} ${units[unit]}`;
}

/** An id from outside: isolated, so that its writing direction stays its own, and broken where it must be. */
export const Id = ({ children, title }) => html`<bdi class="id" title=${title}>${children}</bdi>`;

export const Key = ({ user, bot }) => html`<${Id}>${user}<//> <span class="dot">·</span> <${Id}>${bot}<//>`;

export function Level({ level }) {
  const { sign, word } = LEVELS[level] ?? LEVELS.info;
  return html`<span class=${`level level-${level}`}><span aria-hidden="true">${sign}</span> ${word}</span>`;
}

export const Tag = ({ kind = "plain", children }) => html`<span class=${`tag tag-${kind}`}>${children}</span>`;

export const Reason = ({ reason }) => html`<${Tag} kind="bad">${reason}<//>`;

export const reasonWords = (reason) => REASONS[reason] ?? { says: reason, todo: "" };

/** Names and values; those without a value are left out. */
export const Facts = ({ rows }) => html`
  <dl class="facts">
    ${rows
      .filter(([, value]) => value !== null && value !== undefined && value !== "" && value?.length !== 0)
      .map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;

/** A table that scrolls by itself where it is too wide, also with the keyboard. */
export const Table = ({ label, head, rows, empty }) =>
  rows.length
    ? html`<div class="scroll" tabindex="0" role="region" aria-label=${label}>
        <table>
          <thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
          <tbody>${rows.map(({ key, cells, kind }) => html`<tr key=${key} class=${kind}>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody>
        </table>
      </div>`
    : html`<p class="empty">${empty}</p>`;

/** Two ids under each other, the part in which they differ marked. */
export function Difference({ sides }) {
  const [one, other] = sides.map(([, id]) => [...id]);
  let start = 0;
  while (start < one.length && start < other.length && one[start] === other[start]) start += 1;
  let end = 0;
  while (end < one.length - start && end < other.length - start && one.at(-1 - end) === other.at(-1 - end)) end += 1;
  return html`<dl class="difference">
    ${sides.map(([name, id]) => {
      const letters = [...id];
      const stop = letters.length - end;
      return html`<div key=${name}>
        <dt>${name}</dt>
        <dd><bdi class="id">${letters.slice(0, start).join("")}<mark>${letters.slice(start, stop).join("") || "∅"}</mark>${letters.slice(stop).join("")}</bdi></dd>
      </div>`;
    })}
  </dl>`;
}

/** Fetches `address(props)` when shown, when it changes, and every `every` milliseconds while the console is live. */
export class Loaded extends Component {
  state = { data: null, status: 0 };

  componentDidMount() {
    this.load();
    this.timer = setInterval(() => store.status === "live" && this.load(), this.every ?? 3000);
  }

  componentDidUpdate() {
    if (this.address() !== this.loaded) this.load();
  }

  componentWillUnmount() {
    clearInterval(this.timer);
    this.loaded = null;
  }

  async load() {
    const address = this.address();
    const fresh = address !== this.loaded;
    this.loaded = address;
    if (!address) return;
    if (fresh && this.state.data) this.setState({ data: null, status: 0 });
    const answer = await get(address).catch(() => null);
    if (answer === null || this.loaded !== address) return;
    if (answer.status === 401) loginNeeded();
    else this.setState({ data: answer.ok ? answer.data : null, problem: answer.data, status: answer.status });
  }

  /** What to show until there is data. */
  waiting() {
    const { status, problem } = this.state;
    return status >= 400 ? html`<p class="empty">${problem?.detail ?? "It cannot be read."}</p>` : html`<p class="empty" role="status">Reading…</p>`;
  }
}

export const Heading = ({ children }) => html`<h1 tabindex="-1">${children}</h1>`;
