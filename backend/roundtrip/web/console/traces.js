// The kept traces, and one of them.
import { html } from "/static/html.js";
import { Heading, Loaded, Table, Tag, Time, duration } from "/static/parts.js";
import { paths } from "/static/router.js";
import { NO_RING, NO_TRACE } from "/static/words.js";
import { Lines, Waterfall } from "/static/waterfall.js";

const ASKED = ["event", "link", "key", "user", "failed"];

export class Traces extends Loaded {
  address() {
    const query = new URLSearchParams();
    for (const name of ASKED) if (this.props.query.get(name)) query.set(name, this.props.query.get(name));
    return `/debug/traces?${query}`;
  }

  render({ query }) {
    const { data } = this.state;
    const asked = ASKED.filter((name) => query.get(name));
    return html`
      <${Heading}>Traces<//>
      <p>
        ${asked.length ? html`Only with ${asked.map((name) => html`<code>${name} ${query.get(name)}</code> `)} · <a href="/console/traces">all</a>` : html`<a href="/console/traces?failed=true">Only those in which something failed</a>`}
      </p>
      ${!data
        ? this.waiting()
        : html`<${Table}
            label="Kept traces"
            head=${["At", "Trace", "Begins with", "Took", "Spans", "What failed", "Events"]}
            rows=${data.traces.map((trace) => ({
              key: trace.traceId,
              cells: [
                html`<${Time} at=${trace.start / 1000} />`,
                html`<a href=${paths.trace(trace.traceId)}><code>${trace.traceId.slice(0, 12)}…</code></a>`,
                trace.name,
                duration(trace.duration / 1e6),
                trace.spans,
                trace.errors.map((error) => html`<${Tag} kind="bad">${error}<//> `),
                trace.events.slice(0, 3).map((id) => html`<a href=${paths.event(id)}><code>${id.slice(-12)}</code></a> `),
              ],
            }))}
            empty=${data.ring ? "No trace is kept that fits." : NO_RING}
          />`}`;
  }
}

export class Trace extends Loaded {
  address() {
    return `/debug/traces/${encodeURIComponent(this.props.id)}`;
  }

  render({ id }) {
    const { data, status } = this.state;
    return html`
      <${Heading}>Trace <code>${id}</code><//>
      ${status === 404
        ? html`<p class="empty">${NO_TRACE}</p>`
        : !data
          ? this.waiting()
          : html`
              ${data.linked.length > 0 && html`<p>Linked traces: ${data.linked.map((other) => html`<a key=${other} href=${paths.trace(other)}><code>${other}</code></a> `)}</p>`}
              <${Waterfall} spans=${data.spans} event=${null} />
              <h2>Log lines</h2>
              <${Lines} lines=${data.lines} />
            `}`;
  }
}
