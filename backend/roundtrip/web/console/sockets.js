// Who is mapped under which key; who left; the story of one key.
import { Chart } from "/static/chart.js";
import { html } from "/static/html.js";
import { Facts, Heading, Id, Key, Loaded, Table, Tag, Time, bytes, duration } from "/static/parts.js";
import { go, paths } from "/static/router.js";
import { CHURN } from "/static/words.js";

export const PAGE = 100;

/** A field that narrows a list, kept in the address. */
export const Filter = ({ view, q, label }) => html`
  <form class="filter" role="search" onSubmit=${(event) => {
    event.preventDefault();
    go(`/console/${view}?q=${encodeURIComponent(event.target.elements.q.value)}`);
  }}>
    <label>${label} <input name="q" type="search" maxlength="128" value=${q} /></label> <button type="submit">Show</button>
  </form>`;

/** Links to the pages before and behind. */
export const Pages = ({ view, q, offset, more, count }) => html`
  <nav class="pages" aria-label="Pages">
    ${offset > 0 ? html`<a href=${`/console/${view}?q=${encodeURIComponent(q)}&offset=${Math.max(0, offset - PAGE)}`}>← ${PAGE} before</a>` : null}
    <span class="muted">${count ? `${offset + 1} to ${offset + count}` : ""}</span>
    ${more ? html`<a href=${`/console/${view}?q=${encodeURIComponent(q)}&offset=${offset + PAGE}`}>${PAGE} more →</a>` : null}
  </nav>`;

const socketRow = (key) => (socket) => ({
  key: socket.sid,
  cells: [
    html`<a href=${paths.key(key.userId, key.botId)}><${Key} user=${key.userId} bot=${key.botId} /></a>`,
    html`<code>${socket.sid}</code>`,
    socket.transport,
    duration(socket.age),
    socket.acks ? "promised" : "not promised",
    socket.live ? "live" : html`<${Tag}>replaying<//>`,
    bytes(socket.backlog),
  ],
});

const HEAD = ["Key", "Socket", "Transport", "Mapped for", "Acknowledgements", "State", "Queue"];

const passageRow = (passage, n) => ({
  key: `${passage.sid} ${passage.at} ${n}`,
  cells: [
    html`<${Time} at=${passage.at} />`,
    html`<${Tag} kind=${passage.came ? "good" : "plain"}>${passage.came ? "connected" : "left"}<//>`,
    html`<a href=${paths.key(passage.userId, passage.botId)}><${Key} user=${passage.userId} bot=${passage.botId} /></a>`,
    html`<code>${passage.sid}</code>`,
    passage.transport,
    passage.lived === null ? "" : duration(passage.lived),
  ],
});

const PASSAGES = ["At", "", "Key", "Socket", "Transport", "Lived"];

export class Sockets extends Loaded {
  address() {
    const { query } = this.props;
    return `/debug/console/sockets?q=${encodeURIComponent(query.get("q") ?? "")}&offset=${Number(query.get("offset")) || 0}&limit=${PAGE}`;
  }

  render({ state, query }) {
    const { data } = this.state;
    const q = query.get("q") ?? "";
    const offset = Number(query.get("offset")) || 0;
    return html`
      <${Heading}>Sockets<//>
      <${Facts} rows=${[["Sockets", state.totals.sockets], ["Mapped keys", state.totals.keys], ["Users", state.totals.users], ["Keys that left lately", state.totals.rememberedKeys]]} />
      <div class="charts"><${Chart} chart=${CHURN} series=${state.series} /></div>
      <h2>Who is here</h2>
      <${Filter} view="sockets" q=${q} label="User or bot" />
      ${!data
        ? this.waiting()
        : html`
            <${Table} label="Connected sockets" head=${HEAD} rows=${data.keys.flatMap((key) => key.sockets.map(socketRow(key)))} empty=${q ? "Nobody of this name is connected." : "Nobody is connected."} />
            <${Pages} view="sockets" q=${q} offset=${offset} more=${data.more} count=${data.keys.length} />
            <h2>Just gone</h2>
            <${Table} label="Sockets that left" head=${PASSAGES} rows=${data.left.map(passageRow)} empty="No socket left within the last hour." />
          `}`;
  }
}

export class Story extends Loaded {
  address() {
    const { query } = this.props;
    const bot = query.get("bot");
    return `/debug/console/story?user=${encodeURIComponent(query.get("user"))}${bot === null ? "" : `&bot=${encodeURIComponent(bot)}`}`;
  }

  render({ query }) {
    const { data } = this.state;
    const user = query.get("user");
    const bot = query.get("bot");
    return html`
      <${Heading}>Sockets of <${Id}>${user}<//>${bot === null ? "" : html` · <${Id}>${bot}<//>`}<//>
      <p>${bot === null ? "" : html`<a href=${paths.key(user, null)}>All bots of this user</a> · `}<a href="/console/sockets">All sockets</a></p>
      ${!data
        ? this.waiting()
        : html`
            <h2>Connected now</h2>
            <${Table} label="Sockets of this user" head=${HEAD} rows=${data.keys.flatMap((key) => key.sockets.map(socketRow(key)))} empty="This user has no socket." />
            <h2>The last hour</h2>
            <${Table} label="What this key's sockets did" head=${PASSAGES} rows=${data.passages.map(passageRow)} empty="No socket of this key came or went." />
          `}`;
  }
}
