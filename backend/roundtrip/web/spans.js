// What the page did with each event, as the last span of the event's trace (OTLP/JSON). It is sent in small batches, and
// nothing that becomes of it is seen on the page.

const WAIT = 1000; // ms that spans gather
const BATCH = 20;
const NANOS = 1_000_000n; // of a millisecond

export class Spans {
  #send;
  #queue = [];
  #timer = 0;
  #refused = false;

  /** `send(identity, request)` resolves to an HTTP status. */
  constructor(send) {
    this.#send = send;
    addEventListener("visibilitychange", () => document.visibilityState === "hidden" && this.flush());
    addEventListener("pagehide", () => this.flush());
  }

  /** `event` was handled: from `began`, in ms since the epoch, for `took` ms; `error` is what it failed with. */
  handled(identity, event, began, took, error) {
    const [, traceId, parentSpanId] = event.traceparent.split("-");
    const start = BigInt(Math.round(began)) * NANOS;
    const attributes = [
      text("messaging.message.id", event.id),
      text("roundtrip.attempt.mode", event.replayed ? "replay" : "live"),
      { key: "roundtrip.attempt.number", value: { intValue: event.attempt } },
      text("roundtrip.page.visibility", document.visibilityState),
    ];
    if (error) attributes.push(text("error.type", error.name ?? "Error"));
    if (this.#queue.length && this.#queue[0].identity !== identity) this.flush();
    this.#queue.push({
      identity,
      span: {
        traceId,
        spanId: randomId(),
        parentSpanId,
        name: `process ${event.type}`,
        kind: 5, // CONSUMER
        startTimeUnixNano: String(start),
        endTimeUnixNano: String(start + BigInt(Math.round(took * 1e6))),
        attributes,
        status: { code: error ? 2 : 0 },
      },
    });
    if (this.#queue.length >= BATCH) this.flush();
    else this.#timer ||= setTimeout(() => this.flush(), WAIT);
  }

  flush() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const queue = this.#queue.splice(0);
    if (queue.length === 0 || this.#refused) return;
    const spans = queue.map((entry) => entry.span);
    const resource = { attributes: [text("service.name", "roundtrip-page")] };
    const request = { resourceSpans: [{ resource, scopeSpans: [{ scope: { name: "roundtrip-page" }, spans }] }] };
    this.#send(queue[0].identity, request).then(
      (status) => {
        this.#refused = status >= 400 && status < 500 && status !== 429; // asking again would change nothing
      },
      () => {}, // a span that is lost is no trouble of the person in front of the page
    );
  }
}

const text = (key, stringValue) => ({ key, value: { stringValue } });

function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
