// The picture beside the words: a code to scan, a code to type, a tick, a sign. Always the same size.

import { now } from "./clock.js";
import { Countdown } from "./countdown.js";
import { byId, h, say, svg } from "./dom.js";

const SIGNS = {
  good: ["M30 52.5 44 66l27-31"],
  warn: ["M50 30v24", "M50 67.5v.5"],
  bad: ["M36 36l28 28", "M64 36 36 64"],
};

export class Stage {
  #root;
  #countdown = new Countdown();
  #shown = "";

  constructor(root) {
    this.#root = root;
  }

  /** Draw only what changed: the ring keeps running while nothing about the code changes. */
  render(view, kind) {
    const shown = [kind, view.qr, view.pairingCode, view.expiresAt].join("\n");
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#countdown.stop();
    this.#root.dataset.kind = kind;
    this.#root.replaceChildren(...this.#picture(view, kind));
  }

  #picture(view, kind) {
    if (kind === "qr" && view.qr) return this.#framed(view, this.#qr(view), qrLabel(view));
    if (kind === "code" && view.pairingCode) return this.#framed(view, codeBlocks(view.pairingCode), "");
    if (kind in SIGNS) return [sign(kind)];
    if (kind === "idle") return [invitation()];
    return [h("div", { class: "spinner", "aria-hidden": "true" })];
  }

  /** Drawn as soon as the library is there, and announced: a screen reader's user has to fetch the phone in time. */
  #qr(view) {
    const place = h("div", { class: "qr-place" });
    import("./qr.js").then(
      ({ drawQr }) => place.replaceChildren(drawQr(view.qr)),
      () => place.replaceChildren(h("p", {}, "The QR code could not be drawn. Reload the page.")),
    );
    const seconds = Math.max(0, Math.round((Date.parse(view.expiresAt) - now()) / 1000));
    say(byId("announcement"), `New QR code${view.total ? `, ${view.index} of ${view.total}` : ""}. Valid for ${seconds} seconds.`);
    return place;
  }

  #framed(view, content, label) {
    if (!view.expiresAt) return [h("div", { class: "frame" }, content)];
    this.#countdown.start(view.expiresAt, view.since ?? view.timestamp, label);
    return [h("div", { class: "frame" }, this.#countdown.ring, content), this.#countdown.caption];
  }
}

const qrLabel = (view) => (view.total ? `Code ${view.index} of ${view.total}` : "");

/** Halves of four read better than eight in a row; a screen reader hears single characters. */
function codeBlocks(code) {
  const plain = code.replace(/[\s-]/g, "");
  const half = Math.ceil(plain.length / 2);
  return h(
    "p",
    { class: "pairing-code", id: "pairing-code" },
    h("span", { class: "visually-hidden" }, [...plain].join(" ")),
    h("span", { "aria-hidden": "true" }, plain.slice(0, half)),
    h("span", { "aria-hidden": "true" }, plain.slice(half)),
  );
}

function sign(kind) {
  return svg(
    "svg",
    { class: `sign sign-${kind}`, viewBox: "0 0 100 100", "aria-hidden": "true" },
    svg("circle", { cx: 50, cy: 50, r: 44 }),
    ...SIGNS[kind].map((d) => svg("path", { d, pathLength: 1 })),
  );
}

/** A phone and a screen, about to meet. */
function invitation() {
  return svg(
    "svg",
    { class: "invitation", viewBox: "0 0 100 100", "aria-hidden": "true" },
    svg("rect", { class: "device", x: 12, y: 24, width: 28, height: 52, rx: 6 }),
    svg("path", { class: "device", d: "M23 69.5h6" }),
    svg("rect", { class: "device", x: 60, y: 34, width: 28, height: 32, rx: 4 }),
    svg("path", { class: "dots", d: "M66 41h5v5h-5zM77 41h5v5h-5zM66 54h5v5h-5zM77 54h2v2h-2zM80 57h2v2h-2z" }),
    svg("path", { class: "thread", d: "M44 50h12" }),
  );
}
