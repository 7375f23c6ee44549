// The console: the verdict on top, one view below it.
import { html, render } from "/static/html.js";
import { EventView } from "/static/event.js";
import { Faults } from "/static/faults.js";
import { Health } from "/static/health.js";
import { LinkView, Links } from "/static/links.js";
import { Login, logout } from "/static/login.js";
import { Misses } from "/static/misses.js";
import { Overview } from "/static/overview.js";
import { Heading, Level } from "/static/parts.js";
import * as router from "/static/router.js";
import { Search } from "/static/search.js";
import { Sockets, Story } from "/static/sockets.js";
import * as live from "/static/store.js";
import { Trace, Traces } from "/static/traces.js";
import { STALE, VIEWS } from "/static/words.js";

const { store } = live;

function View({ state, place }) {
  const { view, id, query } = place;
  switch (view) {
    case "": return html`<${Overview} state=${state} />`;
    case "misses": return html`<${Misses} state=${state} />`;
    case "events": return html`<${EventView} key=${id} id=${id ?? ""} state=${state} />`;
    case "traces": return id ? html`<${Trace} key=${id} id=${id} />` : html`<${Traces} query=${query} />`;
    case "sockets": return query.has("user") ? html`<${Story} query=${query} />` : html`<${Sockets} state=${state} query=${query} />`;
    case "links": return id ? html`<${LinkView} key=${id} id=${id} />` : html`<${Links} state=${state} query=${query} />`;
    case "health": return html`<${Health} state=${state} />`;
    case "faults": return html`<${Faults} state=${state} />`;
    default: return html`<${Heading}>There is no such view<//><p><a href="/">Overview</a></p>`;
  }
}

function Verdict({ verdict }) {
  return html`<section class=${`verdict verdict-${verdict.level}`} aria-label="Verdict" data-level=${verdict.level} data-cause=${verdict.cause}>
    <p role="status"><${Level} level=${verdict.level} /> <bdi>${verdict.text}</bdi> <a href=${verdict.target} class="show">Show</a></p>
    ${verdict.others.length > 0 &&
    html`<ul>${verdict.others.slice(0, 6).map((other, n) => html`<li key=${n} data-cause=${other.cause}><${Level} level=${other.level} /> <bdi>${other.text}</bdi> <a href=${other.target}>Show</a></li>`)}</ul>`}
  </section>`;
}

function Status() {
  const words = { live: "Live", connecting: "Connecting…", paused: "Paused", stale: STALE(Math.round((Date.now() - store.heard) / 1000)) };
  return html`<span class=${`status status-${store.status}`} data-status=${store.status}>${words[store.status] ?? ""}</span>`;
}

function App() {
  if (store.status === "login") return html`<${Login} />`;
  const place = router.route();
  const { state } = store;
  return html`
    <a class="skip" href="#view">To the view</a>
    <header class="top">
      <a class="brand" href="/">Roundtrip</a>
      <nav aria-label="Views">
        ${VIEWS.map(([view, name]) => html`<a key=${view} href=${view ? `/console/${view}` : "/"} aria-current=${place.view === view ? "page" : null}>${name}</a>`)}
      </nav>
      <${Search} />
      <${Status} />
      ${state?.keyNeeded ? html`<button type="button" class="quiet" onClick=${logout}>Log out</button>` : null}
    </header>
    ${state && html`<${Verdict} verdict=${state.verdict} />`}
    <main id="view" class=${store.status === "stale" ? "is-stale" : ""}>${state ? html`<${View} state=${state} place=${place} />` : html`<p class="empty" role="status">Reading…</p>`}</main>`;
}

let waiting = false;
function draw() {
  waiting = false;
  const place = router.route();
  const name = VIEWS.find(([view]) => view === place.view)?.[1] ?? place.view;
  const level = store.state?.verdict.level;
  document.title = `${level && level !== "ok" ? `${level}: ` : ""}${name} · Roundtrip console`;
  render(html`<${App} />`, document.getElementById("app"));
}

function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(draw);
}

live.subscribe(drawSoon);
router.onMove(draw);
router.start();
draw();
live.start();
