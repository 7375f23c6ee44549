// One event: its story from the ledger, its spans, the linked traces, the log lines.
import { html } from "/static/html.js";
import { Difference, Facts, Heading, Id, Key, Loaded, Tag, Time, duration, reasonWords } from "/static/parts.js";
import { paths } from "/static/router.js";
import { NO_SPANS, OUTCOMES, PAGE_FAILED, PAGE_PROCESSED } from "/static/words.js";
import { Lines, Waterfall } from "/static/waterfall.js";

const GOOD = new Set(["acked", "received", "superseded"]);

export class EventView extends Loaded {
  address() {
    return `/debug/console/events/${encodeURIComponent(this.props.id)}`;
  }

  render() {
    const { data } = this.state;
    if (!data) return html`<${Heading}>Event<//>${this.waiting()}`;
    const { event, traces, miss } = data;
    const missed = event.attempts.filter((attempt) => attempt.reason).at(-1);
    const kind = event.outcome === "pending" ? "plain" : GOOD.has(event.outcome) ? "good" : "bad";
    const traceUrl = this.props.state.traceUrlTemplate && event.traceId ? this.props.state.traceUrlTemplate.replace("{trace_id}", event.traceId) : null;
    return html`
      <${Heading}>${event.type}<//>
      <p><${Tag} kind=${kind}>${event.outcome}<//> ${OUTCOMES[event.outcome]}</p>
      <${Facts}
        rows=${[
          ["Key", html`<a href=${paths.key(event.userId, event.botId)}><${Key} user=${event.userId} bot=${event.botId} /></a>`],
          ["Link", html`<a href=${paths.link(event.linkId)}><${Id}>${event.linkId}<//></a>`],
          ["Seq", event.seq],
          ["Event", html`<code>${event.id}</code>`],
          ["Created", html`<${Time} at=${event.createdAt} />`],
          ["Lives until", html`<${Time} at=${event.expiresAt} />`],
          ["Your trace viewer", traceUrl && /^https?:/.test(traceUrl) ? html`<a href=${traceUrl} target="_blank" rel="noreferrer">open</a>` : null],
        ]}
      />
      ${missed &&
      html`<article class="card miss" data-reason=${missed.reason}>
        <p><strong>${missed.reason}</strong>: ${reasonWords(missed.reason).says}</p>
        ${missed.reason === "key_mismatch" &&
        (miss?.connected ?? []).slice(0, 3).map(
          (bot) => html`<${Difference} key=${bot} sides=${[["Events go to", miss.lookedFor], ["The page is connected as", bot]]} />`,
        )}
        <${Facts}
          rows=${[
            ["Looked for, key hash", missed.lookedFor && html`<code>${missed.lookedFor}</code>${missed.lookedForIsUser ? " (the user's id as botId)" : ""}`],
            ["Connected, key hashes", missed.connected && html`<code>${missed.connected.join(", ")}</code>${missed.connectedIsUser ? " (the user's id as botId)" : ""}`],
          ]}
        />
        <p class="todo"><strong>What to do:</strong> ${reasonWords(missed.reason).todo}</p>
      </article>`}
      <h2>What happened</h2>
      <ol class="steps">
        ${event.steps.map(
          (step, n) => html`<li key=${n} class=${`step step-${step.kind}`} data-kind=${step.kind}>
            <${Time} at=${step.at} /> <span class="after">+${duration(step.sinceCreated / 1000)}</span>
            <${Tag} kind=${step.kind === "missed" ? "bad" : "plain"}>${step.kind}<//>
            <span>${step.attempt ? `Attempt ${step.attempt}: ` : ""}<${Id}>${step.text}<//></span>
          </li>`,
        )}
        ${traces.spans.filter((span) => span.name.startsWith("process ")).map(
          (span) => html`<li key=${span.spanId} class="step step-process" data-kind="process">
            <${Time} at=${new Date(span.start / 1000).toISOString()} />${" "}
            <${Tag} kind=${span.error ? "bad" : "plain"}>process<//>
            <span>${span.error ? PAGE_FAILED : PAGE_PROCESSED} ${duration(span.duration / 1e6)}${span.error ? `: ${span.error}` : "."}</span>
          </li>`,
        )}
      </ol>
      <h2>Spans</h2>
      ${traces.spans.length ? html`<${Waterfall} spans=${traces.spans} event=${event.id} />` : html`<p class="empty">${NO_SPANS}</p>`}
      <h2>Log lines</h2>
      <${Lines} lines=${traces.lines} />`;
  }
}
