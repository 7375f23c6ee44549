// The first minute: what is on fire, the figures of the last 15 minutes, and their charts.
import { Chart } from "/static/chart.js";
import { html } from "/static/html.js";
import { Heading, Level, Time, duration } from "/static/parts.js";
import { CHARTS, RUNBOOK } from "/static/words.js";

const Figure = ({ name, value, note, href }) => html`
  <a class="figure" href=${href}><span class="figure-name">${name}</span><span class="figure-value">${value}</span><span class="figure-note">${note}</span></a>`;

export function Overview({ state }) {
  const { window, totals, series, alerts } = state;
  const links = Object.entries(totals.links);
  return html`
    <${Heading}>Overview<//>
    <div class="figures">
      <${Figure} name="Emits found" value=${window.sent} note="last 15 minutes" href="/console/traces" />
      <${Figure} name="Emits missing" value=${window.missed} note=${Object.entries(window.missedByReason).map(([reason, count]) => `${reason} ${count}`).join(", ") || "none"} href="/console/misses" />
      <${Figure} name="Delivery p50 / p99" value=${`${duration(window.p50)} / ${duration(window.p99)}`} note="created to first confirmation" href="/console/traces" />
      <${Figure} name="Pending events" value=${totals.pending} note=${totals.pending ? `the oldest for ${duration(totals.oldestPendingAge)}` : "nothing waits"} href="/console/misses" />
      <${Figure} name="Sockets" value=${totals.sockets} note=${`${totals.keys} mapped keys, ${totals.users} users`} href="/console/sockets" />
      <${Figure} name="Links" value=${links.reduce((sum, [, count]) => sum + count, 0)} note=${links.map(([name, count]) => `${name} ${count}`).join(", ") || "none"} href="/console/links" />
      <${Figure} name="Event loop lag p99" value=${duration(window.lag)} note="last 15 minutes" href="/console/health" />
    </div>
    <h2>On fire</h2>
    <${Alerts} alerts=${alerts} />
    <h2>The last 15 minutes</h2>
    <div class="charts">${CHARTS.map((chart) => html`<${Chart} key=${chart.title} chart=${chart} series=${series} />`)}</div>`;
}

export const Alerts = ({ alerts }) =>
  alerts.length
    ? html`<ul class="alerts">
        ${alerts.map(
          (alert) => html`<li key=${alert.name}>
            <${Level} level=${alert.severity} /> <strong>${alert.name}</strong> ${alert.firing ? "fires" : "is about to fire"}, since <${Time} at=${alert.since * 1000} />: ${alert.summary} <span class="muted">Runbook: ${RUNBOOK(alert.name)}</span>
          </li>`,
        )}
      </ul>`
    : html`<p class="empty">No alert fires, as far as this process can see.</p>`;
