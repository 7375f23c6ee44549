// Spans as a waterfall: a trace under the other, each with its own scale.
import { Component, html } from "/static/html.js";
import { Facts, Id, Tag, duration } from "/static/parts.js";
import { paths } from "/static/router.js";

const MESSAGE = "messaging.message.id";

/** Spans of one trace in the order of their tree, each with its depth. */
function tree(spans) {
  const known = new Set(spans.map((span) => span.spanId));
  const children = new Map();
  for (const span of spans) {
    const parent = known.has(span.parentId) ? span.parentId : null;
    children.set(parent, [...(children.get(parent) ?? []), span]);
  }
  const ordered = [];
  const visit = (parent, depth) => {
    for (const span of children.get(parent) ?? []) {
      ordered.push([span, depth]);
      visit(span.spanId, depth + 1);
    }
  };
  visit(null, 0);
  return ordered;
}

export class Waterfall extends Component {
  state = { open: null };

  componentDidMount() {
    const failed = this.props.spans.filter((span) => span.error).at(-1);
    if (failed) this.setState({ open: failed.spanId }); // what failed is what one came for
  }

  render({ spans, event }, { open }) {
    const traces = [...new Set(spans.map((span) => span.traceId))];
    return traces.map((trace) => {
      const own = spans.filter((span) => span.traceId === trace);
      const focus = event ? own.filter((span) => span.attributes[MESSAGE] === event) : own;
      const scale = focus.length ? focus : own;
      const from = Math.min(...scale.map((span) => span.start));
      const to = Math.max(...scale.map((span) => span.start + span.duration), from + 1000);
      return html`<section class="waterfall" key=${trace} aria-label=${`Trace ${trace}`}>
        <h3>Trace <a href=${paths.trace(trace)}><code>${trace}</code></a> <span class="muted">${duration((to - from) / 1e6)}</span></h3>
        <ol>
          ${tree(own).map(
            ([span, depth]) => html`<${Row} key=${span.spanId} span=${span} depth=${depth} from=${from} to=${to} open=${open === span.spanId} toggle=${() => this.setState({ open: open === span.spanId ? null : span.spanId })} event=${event} />`,
          )}
        </ol>
      </section>`;
    });
  }
}

function Row({ span, depth, from, to, open, toggle, event }) {
  const place = (at) => Math.min(100, Math.max(0, ((at - from) / (to - from)) * 100));
  const left = place(span.start);
  const width = Math.max(0.6, place(span.start + span.duration) - left);
  const after = (span.start - from) / 1e6;
  const other = span.attributes[MESSAGE];
  return html`<li class=${span.error ? "span span-failed" : "span"} data-name=${span.name} data-error=${span.error ?? ""}>
    <button type="button" aria-expanded=${open} onClick=${toggle}>
      <span class="span-name" style=${{ paddingInlineStart: `${Math.min(depth, 6)}rem` }}>${span.error ? html`<span class="cross" aria-hidden="true">✕ </span>` : null}${span.name}${span.error ? html` <${Tag} kind="bad">${span.error}<//>` : null}</span>
      <span class="track" aria-hidden="true"><span class="bar" style=${{ insetInlineStart: `${Math.min(left, 99.4)}%`, width: `${width}%` }}></span></span>
      <span class="span-time">${after >= 0 ? "+" : "−"}${duration(Math.abs(after))} · ${duration(span.duration / 1e6)}</span>
    </button>
    ${open &&
    html`<div class="span-body">
      <${Facts}
        rows=${[
          ["Service", span.service],
          ["Kind", span.kind],
          ["Span", html`<code>${span.spanId}</code>`],
          ["Event", other && other !== event ? html`<a href=${paths.event(other)}><code>${other}</code></a>` : null],
          ...Object.entries(span.attributes).map(([name, value]) => [name, html`<${Id}>${String(value)}<//>`]),
          ["Links to", span.links.map((link) => html`<a href=${paths.trace(link.traceId)}><code>${link.traceId.slice(0, 8)}…/${link.spanId}</code></a> `)],
        ]}
      />
    </div>`}
  </li>`;
}

/** Log lines as the log has them, the usual fields first. */
export function Lines({ lines }) {
  if (!lines.length) return html`<p class="empty">No log line names this trace any more.</p>`;
  return html`<ol class="lines">
    ${lines.map(
      ({ timestamp, level, event, logger: _logger, trace_id: _trace, ...fields }, n) => html`<li key=${n} class=${`line line-${level}`}>
        <time>${timestamp.slice(11, 23)}</time> <strong>${level}</strong> ${event}
        ${Object.entries(fields).map(([name, value]) => html` <span class="field"><span class="muted">${name}=</span><${Id}>${typeof value === "string" ? value : JSON.stringify(value)}<//></span>`)}
      </li>`,
    )}
  </ol>`;
}
