// The state of the link, large, and the one thing to do about it.

import { byId, h, say, show } from "./dom.js";
import { Stage } from "./stage.js";
import { endingOf, eyebrowOf, sentenceOf, stateOf, STEPS, stillBanned } from "./words.js";

export class Hero {
  #root = byId("hero");
  #headline = byId("headline");
  #stage = new Stage(byId("stage"));
  #link = byId("link");
  #unlink = byId("unlink");
  #number = byId("phone-submit");
  #question = byId("question");
  #view = { state: "unknown" };
  #busy = false;

  /** `onStart(phoneNumber?)` and `onEnd()` return promises; meanwhile the buttons wait. */
  constructor({ onStart, onEnd }) {
    this.#link.addEventListener("click", () => this.#during(this.#link, () => onStart()));
    this.#unlink.addEventListener("click", () => this.#during(this.#unlink, () => this.#ended(onEnd)));
    byId("phone-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = byId("phone-number");
      this.phoneError("");
      this.#during(this.#number, () => onStart(field.value.trim() || "+"));
    });
    for (const button of this.#question.querySelectorAll("button")) {
      button.addEventListener("click", () => this.#question.close(button.value));
    }
  }

  /** Show the view; `connection` is the socket's status: unless connected, this is what the page last knew, and nothing
   * can be done about it. A view that is stale is what the backend last knew. */
  render(view, connection) {
    this.#view = view;
    const words = stateOf(view, connection);
    const away = connection !== "connected";
    this.#root.dataset.tone = words.tone;
    this.#root.dataset.state = view.state;
    const old = away || Boolean(view.stale);
    this.#root.classList.toggle("stale", old && view.state !== "unknown");
    say(byId("eyebrow"), eyebrowOf(view, old));
    say(this.#headline, words.headline);
    say(byId("sentence"), sentenceOf(view, words));
    document.title = view.state === "unknown" ? "Roundtrip" : `${words.headline} · Roundtrip`;

    this.#stage.render(view, words.stage);
    this.#account(view);
    this.#steps(STEPS[view.state]);

    for (const button of [this.#link, this.#unlink, this.#number]) button.setAttribute("aria-disabled", String(away));
    show(this.#link, Boolean(words.start) && !stillBanned(view), this.#headline);
    if (words.start) say(this.#link, words.start);
    show(this.#unlink, Boolean(words.end), this.#headline);
    if (words.end) say(this.#unlink, words.end);
    const byNumber = (Boolean(words.start) && !this.#link.hidden && view.state !== "replaced") || view.state === "qr";
    show(byId("alternative"), byNumber, this.#headline);
    say(byId("alternative-summary"), view.state === "qr" ? "No camera? Use a phone number" : "Use a phone number instead");
  }

  /** A code that was asked for is of no use out of sight. */
  reveal() {
    if (byId("stage").getBoundingClientRect().top < 0) this.#root.scrollIntoView({ block: "start" });
  }

  phoneError(sentence) {
    say(byId("phone-error"), sentence);
    const field = byId("phone-number");
    if (!sentence) {
      field.removeAttribute("aria-invalid");
      return;
    }
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }

  #account(view) {
    const known = Boolean(view.phoneNumber) && ["connected", "degraded", "disconnected", "paired"].includes(view.state);
    byId("account").hidden = !known;
    say(byId("account-phone"), known ? view.phoneNumber : "");
    say(byId("account-name"), known ? view.displayName || "…" : "");
  }

  #steps(steps) {
    const list = byId("steps");
    list.hidden = !steps;
    const text = (steps ?? []).join("\n");
    if (list.dataset.text === text) return;
    list.dataset.text = text;
    list.replaceChildren(...(steps ?? []).map((step) => h("li", {}, step)));
  }

  /** End the link: what cannot be taken back is asked about first. */
  async #ended(onEnd) {
    const ending = endingOf(this.#view);
    if (ending && !(await this.#confirmed(ending))) return;
    await onEnd();
  }

  #confirmed({ title, text, action }) {
    say(byId("question-title"), title);
    say(byId("question-text"), text);
    say(byId("question-yes"), action);
    this.#question.returnValue = "";
    this.#question.showModal();
    return new Promise((resolve) => {
      this.#question.addEventListener("close", () => resolve(this.#question.returnValue === "yes"), { once: true });
    });
  }

  async #during(button, work) {
    if (this.#busy || button.getAttribute("aria-disabled") === "true") return; // a second press means the same as the first
    this.#busy = true;
    this.#root.setAttribute("aria-busy", "true");
    try {
      await work();
    } finally {
      this.#busy = false;
      this.#root.removeAttribute("aria-busy");
    }
  }
}
