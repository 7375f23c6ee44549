// The event log, newest first: what arrived, and what the ledger knows from before this page was opened.

import { clockTime, dayTime, exactTime, now } from "./clock.js";
import { byId, h, say } from "./dom.js";
import { detailOf, errorSentence, outcomeWords, titleOf, toneOf, travelWords } from "./words.js";

const LIMIT = 200; // rows; older ones go, so that a page left open for days stays light
const DAY = 86_400_000; // ms

export class Timeline {
  #list = byId("events");
  #rows = new Map(); // by the event's id
  #readStory;

  /** `readStory(id)` fetches an event's history. */
  constructor(readStory) {
    this.#readStory = readStory;
  }

  /** An event that arrived. */
  add(event) {
    this.#put(event, event.replayed ? "replayed" : "live");
  }

  /** Events of the ledger, which say when and what, but not what they said. */
  addEarlier(entries) {
    this.#list.parentElement.setAttribute("aria-busy", "true"); // a screen reader hears what is new, not the past
    for (const entry of entries) {
      if (!this.#rows.has(entry.id)) this.#put({ ...entry, timestamp: entry.createdAt }, "earlier");
    }
    this.#list.parentElement.removeAttribute("aria-busy");
  }

  clear() {
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#count();
  }

  #put(event, way) {
    this.#rows.get(event.id)?.remove();
    const row = this.#row(event, way);
    const older = [...this.#list.children].find((other) => Number(other.dataset.seq) < event.seq);
    this.#list.insertBefore(row, older ?? null);
    this.#rows.set(event.id, row);
    while (this.#list.children.length > LIMIT) {
      this.#rows.delete(this.#list.lastElementChild.dataset.id);
      this.#list.lastElementChild.remove();
    }
    this.#count();
  }

  #count() {
    const ways = [...this.#list.children].map((row) => row.dataset.way);
    const parts = ["live", "replayed", "earlier"].map((way) => [ways.filter((other) => other === way).length, way]);
    byId("empty").hidden = ways.length > 0;
    say(byId("counts"), parts.filter(([count]) => count).map(([count, way]) => `${count} ${way}`).join(" · "));
  }

  #row(event, way) {
    const detail = detailOf(event);
    const facts =
      way === "earlier"
        ? [outcomeWords(event.outcome)]
        : [`${way === "replayed" ? "replayed" : "delivered"} after ${travelWords(event, now())}`, `attempt ${event.attempt}`];
    const old = now() - Date.parse(event.timestamp) > DAY;
    return h(
      "li",
      {
        class: "event",
        "data-id": event.id,
        "data-seq": event.seq,
        "data-type": event.type,
        "data-way": way,
        "data-tone": toneOf(event),
        value: event.seq,
      },
      h("span", { class: "seq", title: "Sequence number" }, `${event.seq}`),
      h(
        "div",
        { class: "what" },
        h("p", { class: "title" }, h("strong", {}, titleOf(event)), detail ? ` ${detail}` : null),
        h(
          "p",
          { class: "meta" },
          h("time", { datetime: event.timestamp }, old ? dayTime(event.timestamp) : clockTime(event.timestamp)),
          ...facts.map((fact) => h("span", {}, fact)),
          h("code", {}, event.type),
        ),
        this.#story(event),
      ),
      h("span", { class: `badge badge-${way}` }, way),
    );
  }

  #story(event) {
    const body = h("div", { class: "story-body" });
    const load = async (toggled) => {
      if (!toggled.target.open) return;
      try {
        body.replaceChildren(...storyOf(await this.#readStory(event.id)));
      } catch (problem) {
        body.replaceChildren(h("p", {}, errorSentence(problem)));
      }
    };
    const which = h("span", { class: "visually-hidden" }, ` of event ${event.seq}`);
    return h("details", { class: "history", ontoggle: load }, h("summary", {}, "Delivery timeline", which), body);
  }
}

/** What the ledger tells of an event: each step with its time, then its trace. */
function storyOf(event) {
  const steps = event.steps.map((step) => h("li", {}, h("time", { datetime: step.at }, exactTime(step.at)), " ", step.text));
  if (event.outcome === "pending") steps.push(h("li", {}, outcomeWords(event.outcome)));
  const id = event.traceId && h("code", {}, event.traceId);
  const trace = event.traceUrl ? h("a", { href: event.traceUrl, rel: "noreferrer" }, id) : id;
  return [h("ol", {}, ...steps), trace ? h("p", { class: "trace" }, "Trace ", trace) : ""];
}
