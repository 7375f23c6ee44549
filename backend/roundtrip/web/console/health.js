// Whether the process can do its work, what it loses, how it is set up.
import { html } from "/static/html.js";
import { Alerts } from "/static/overview.js";
import { Facts, Heading, Id, Table, Tag, Time, bytes, duration } from "/static/parts.js";
import { LEVELS } from "/static/words.js";

export function Health({ state }) {
  const { ready, telemetry, totals, window, build, settings, unseen } = state;
  const { ring } = telemetry;
  return html`
    <${Heading}>Health<//>
    <h2>Readiness</h2>
    ${ready === null
      ? html`<p class="empty">The checks have not run yet.</p>`
      : html`<${Table}
          label="Readiness checks"
          head=${["Check", "", "What it says"]}
          rows=${Object.entries(ready.checks).map(([name, check]) => ({
            key: name,
            cells: [name, html`<${Tag} kind=${check.ok ? "good" : "bad"}>${check.ok ? `${LEVELS.ok.sign} ok` : `${LEVELS.critical.sign} fails`}<//>`, check.detail],
          }))}
        />`}
    <h2>Alerts, as this process sees them</h2>
    <${Alerts} alerts=${state.alerts} />
    <details><summary>Alerts that only Prometheus can give</summary><${Facts} rows=${Object.entries(unseen)} /></details>
    <h2>Store, loop, telemetry</h2>
    <${Facts}
      rows=${[
        ["Outbox", bytes(totals.outboxBytes)],
        ["Outbox write time p90", duration(window.write)],
        ["Event loop lag p99", duration(window.lag)],
        ["Pending events", totals.pending],
        ["Spans and log records lost, 15 min", telemetry.dropped],
        ["Spans go to a collector", telemetry.exporting ? "yes" : "no"],
        ["Trace ring", ring ? `${bytes(ring.bytes)} of ${bytes(ring.limit)}, ${ring.notes} notes, ${ring.spans} spans, ${ring.washed_out} older misses gone` : "off"],
        ["Log lines kept", telemetry.lineBytes === null ? "off" : bytes(telemetry.lineBytes)],
        ["Consoles open", totals.consoles],
      ]}
    />
    <h2>Process</h2>
    <${Facts} rows=${[["Version", build.version], ["Python", build.python], ["Started", html`<${Time} at=${build.started * 1000} />`], ["WhatsApp driver", build.driver], ["Identity", build.auth], ["Node", build.node ?? "one process"]]} />
    <h2>Settings</h2>
    <${Settings} label="Settings that were set" settings=${Object.entries(settings).filter(([, setting]) => !setting.default)} />
    <details><summary>All settings</summary><${Settings} label="All settings" settings=${Object.entries(settings)} /></details>`;
}

const Settings = ({ label, settings }) => html`<${Table}
  label=${label}
  head=${["Setting", "Value"]}
  rows=${settings.map(([name, { value }]) => ({ key: name, cells: [html`<code>${name}</code>`, html`<${Id}>${value}<//>`] }))}
  empty="All have their defaults."
/>`;
