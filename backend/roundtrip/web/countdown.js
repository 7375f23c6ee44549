// The ring around a code, and the seconds that it is still valid.

import { now } from "./clock.js";
import { h, say, svg } from "./dom.js";

/** A frame around a code that empties as the code ages, with the seconds in words beneath. */
export class Countdown {
  #bar = svg("rect", { class: "ring-bar", x: 2, y: 2, width: 96, height: 96, rx: 9, pathLength: 100 });
  #text = h("span", { class: "seconds" });
  #caption = h("p", { class: "caption" });
  #timer = 0;
  #until = 0;
  #span = 1;
  ring = svg(
    "svg",
    { class: "ring", viewBox: "0 0 100 100", "aria-hidden": "true" },
    svg("rect", { class: "ring-track", x: 2, y: 2, width: 96, height: 96, rx: 9 }),
    this.#bar,
  );

  /** The words beneath: `label`, then the seconds left. */
  get caption() {
    return this.#caption;
  }

  /** Run until `expiresAt` (RFC 3339). `since` is when the code began, which makes the ring's full length. */
  start(expiresAt, since, label) {
    this.stop();
    this.#until = Date.parse(expiresAt);
    this.#span = Math.max(1000, this.#until - Math.min(Date.parse(since), now()));
    this.#caption.replaceChildren(label ? `${label} · ` : "", this.#text);
    this.#tick();
    this.#timer = setInterval(() => this.#tick(), 250);
  }

  stop() {
    clearInterval(this.#timer);
  }

  #tick() {
    const left = Math.max(0, this.#until - now());
    const share = Math.min(1, left / this.#span);
    this.#bar.setAttribute("stroke-dasharray", `${(share * 100).toFixed(2)} 100`);
    this.#bar.classList.toggle("ending", left < 5000);
    say(this.#text, left > 0 ? `${Math.ceil(left / 1000)} s left` : "waiting for the next code");
  }
}
