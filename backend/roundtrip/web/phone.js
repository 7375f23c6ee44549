// What the simulated phone can do. Shown only where the phone is simulated.

import { byId, h, say } from "./dom.js";
import { PHONE_ACTIONS, humane } from "./words.js";

const PAIRING = ["qr", "pairing_code"];
const LINKED = ["connected", "degraded", "disconnected"];
const LIVE = ["connecting", "paired", ...PAIRING, ...LINKED];
const SENSIBLE = {
  scan: PAIRING,
  expire: PAIRING,
  disconnect: ["connected", "degraded"],
  reconnect: ["disconnected", "degraded"],
  degrade: ["connected"],
  restore: ["degraded"],
  logout: LINKED,
  replace: LINKED,
  ban: [...PAIRING, ...LINKED],
};

const COMMON = ["scan", "disconnect", "reconnect", "degrade", "restore", "logout", "replace", "ban", "expire"];

export class Phone {
  #buttons = new Map();

  /** `onAction(action)` returns the sentence to say when it is done. */
  constructor(actions, onAction) {
    for (const action of actions) {
      const button = h("button", { type: "button", "data-action": action }, PHONE_ACTIONS[action] ?? humane(action));
      button.addEventListener("click", async () => {
        // not the `disabled` attribute: that would drop the keyboard's focus the moment the press has worked
        if (button.getAttribute("aria-disabled") === "true") return;
        this.say(await onAction(action));
      });
      this.#buttons.set(action, button);
    }
    const rare = actions.filter((action) => !COMMON.includes(action));
    byId("phone-buttons").replaceChildren(...this.#of(COMMON));
    byId("phone-rare").replaceChildren(...this.#of(rare));
    byId("phone-more").hidden = rare.length === 0;
    byId("phone").hidden = false;
  }

  #of(actions) {
    return actions.map((action) => this.#buttons.get(action)).filter(Boolean);
  }

  /** Disable what makes no sense now. Offline on purpose the page does not know, so everything may be pressed; with the
   * backend gone nothing can be. */
  render(state, connection) {
    for (const [action, button] of this.#buttons) {
      const sensible = connection === "offline" || (connection === "connected" && (SENSIBLE[action] ?? LIVE).includes(state));
      button.setAttribute("aria-disabled", String(!sensible));
    }
  }

  say(sentence) {
    say(byId("phone-said"), sentence);
  }

  /** The driver turned out to be a real one. */
  hide() {
    byId("phone").hidden = true;
  }
}
