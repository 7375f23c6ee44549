// What found nobody, live: grouped by reason and key, with what it means and what to do.
import { html } from "/static/html.js";
import { Difference, Facts, Heading, Id, Key, Reason, Table, Time, reasonWords } from "/static/parts.js";
import { paths } from "/static/router.js";
import { NOTHING_MISSED } from "/static/words.js";

export function Misses({ state }) {
  const { groups, newest } = state.misses;
  return html`
    <${Heading}>Misses<//>
    ${groups.length ? groups.map((group) => html`<${Group} key=${`${group.reason} ${group.userId} ${group.lookedFor}`} group=${group} />`) : html`<p class="empty">${NOTHING_MISSED}</p>`}
    <h2>Newest first</h2>
    <${Table}
      label="The newest misses"
      head=${["At", "Event", "Why", "Looked for", "Connected as", "Attempts", ""]}
      rows=${newest.map((note) => ({
        key: note.eventId,
        cells: [
          html`<${Time} at=${note.at} />`,
          html`<a href=${paths.event(note.eventId)}>${note.type}</a>`,
          html`<${Reason} reason=${note.reason} />`,
          html`<${Key} user=${note.userId} bot=${note.lookedFor || note.botId} />`,
          note.connected.map((bot) => html`<${Id}>${bot}<//> `),
          note.attempt,
          note.waits ? "waits" : "over",
        ],
      }))}
      empty=${NOTHING_MISSED}
    />`;
}

function Group({ group }) {
  const words = reasonWords(group.reason);
  return html`<article class=${`card miss ${group.waiting ? "miss-waits" : ""}`} data-reason=${group.reason}>
    <header>
      <${Reason} reason=${group.reason} />
      <span><${Key} user=${group.userId} bot=${group.lookedFor || group.botId} /></span>
      <span class="muted">${group.events === 1 ? "1 event" : `${group.events} events`}, ${group.waiting ? `${group.waiting} still waiting` : "none waits any more"}</span>
    </header>
    <p>${words.says}</p>
    ${group.reason === "key_mismatch" &&
    group.connected.slice(0, 3).map(
      (bot) => html`<${Difference} key=${bot} sides=${[["Events go to", group.lookedFor], ["The page is connected as", bot]]} />`,
    )}
    <p class="todo"><strong>What to do:</strong> ${words.todo}</p>
    <${Facts}
      rows=${[
        ["First", html`<${Time} at=${group.firstAt} />`],
        ["Last", html`<${Time} at=${group.at} />`],
        ["Types", group.types.join(", ")],
        ["Key hash", html`<a href=${`/console/traces?key=${group.keyHash}`}><code>${group.keyHash}</code></a>`],
      ]}
    />
    <p class="links">
      <a href=${paths.event(group.eventId)}>Show the newest event</a>
      <a href=${paths.key(group.userId, null)}>What this user's sockets did</a>
    </p>
  </article>`;
}
