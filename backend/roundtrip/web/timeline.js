// Each event as it arrived: its number, whether live or replayed, and, on demand, its whole history.

import { clockTime, exactTime, now } from "./clock.js";
import { byId, h, say } from "./dom.js";
import { detailOf, errorSentence, outcomeWords, titleOf, toneOf, travelWords } from "./words.js";

const LIMIT = 200; // rows; older ones go, so that a page left open for days stays light

export class Timeline {
  #list = byId("events");
  #live = 0;
  #replayed = 0;
  #readStory;

  /** `readStory(id)` fetches an event's history. */
  constructor(readStory) {
    this.#readStory = readStory;
  }

  add(event) {
    if (event.replayed) this.#replayed += 1;
    else this.#live += 1;
    this.#list.prepend(this.#row(event));
    if (this.#list.children.length > LIMIT) this.#list.lastElementChild.remove();
    this.#count();
  }

  clear() {
    this.#live = 0;
    this.#replayed = 0;
    this.#list.replaceChildren();
    this.#count();
  }

  #count() {
    const total = this.#live + this.#replayed;
    byId("empty").hidden = total > 0;
    say(byId("counts"), total ? `${this.#live} live · ${this.#replayed} replayed` : "");
  }

  #row(event) {
    const detail = detailOf(event);
    const way = event.replayed ? "replayed" : "live";
    const travel = travelWords(event, now());
    return h(
      "li",
      {
        class: "event",
        "data-seq": event.seq,
        "data-type": event.type,
        "data-way": way,
        "data-tone": toneOf(event),
        value: event.seq,
      },
      h("span", { class: "seq", title: "Number of this event" }, `${event.seq}`),
      h(
        "div",
        { class: "what" },
        h("p", { class: "title" }, h("strong", {}, titleOf(event)), detail ? ` ${detail}` : null),
        h(
          "p",
          { class: "meta" },
          h("time", { datetime: event.timestamp }, clockTime(event.timestamp)),
          h("span", {}, event.replayed ? `waited ${travel}` : `here after ${travel}`),
          h("span", {}, `attempt ${event.attempt}`),
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
    const name = `How event ${event.seq} got here`;
    return h("details", { class: "history", ontoggle: load }, h("summary", { "aria-label": name }, "How it got here"), body);
  }
}

/** What the ledger tells of an event: each step with its time, then its trace. */
function storyOf(event) {
  const steps = event.steps.map((step) => h("li", {}, h("time", { datetime: step.at }, exactTime(step.at)), step.text));
  if (event.outcome === "pending") steps.push(h("li", {}, outcomeWords(event.outcome)));
  const id = event.traceId && h("code", {}, event.traceId);
  const trace = event.traceUrl ? h("a", { href: event.traceUrl, rel: "noreferrer" }, id) : id;
  return [h("ol", {}, ...steps), trace ? h("p", { class: "trace" }, "Trace ", trace) : ""];
}
