// Who the page speaks for: two fields, remembered in this browser. A token is never stored.

import { byId, say } from "./dom.js";
import { remember, remembered } from "./start.js";

export class IdentityForm {
  #panel = byId("identity");
  #form = byId("identity-form");
  #token;

  /** `onChange(identity)` is called when the person sets new ids. `mode` is `trusted` or `jwt`. */
  constructor(mode, onChange) {
    this.#token = mode === "jwt" ? "" : undefined;
    byId("user-field").hidden = mode === "jwt";
    byId("token-field").hidden = mode !== "jwt";
    this.#form.elements.userId.value = remembered.userId;
    this.#form.elements.botId.value = remembered.botId;
    this.#describe();
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (mode === "jwt") this.#token = this.#form.elements.token.value.trim();
      remember({ userId: this.#form.elements.userId.value, botId: this.#form.elements.botId.value });
      this.#describe();
      onChange(this.current);
      this.#panel.open = false;
      this.#panel.querySelector("summary").focus();
    });
  }

  /** Ids go out as typed: the server judges them, and the page shows what it says. */
  get current() {
    const { userId, botId } = this.#form.elements;
    return this.#token === undefined
      ? { userId: userId.value, botId: botId.value }
      : { token: this.#token, botId: botId.value };
  }

  /** Speak for another bot of the same user. */
  switchTo(botId) {
    this.#form.elements.botId.value = botId;
    this.#form.requestSubmit();
  }

  /** Something is missing that only a person can fill in. */
  ask() {
    this.#panel.open = true;
  }

  #describe() {
    const { userId, botId } = this.current;
    const text = userId === undefined ? (botId || "no bot id") : `${userId || "no user id"} · ${botId || "no bot id"}`;
    say(byId("who-text"), text);
  }
}
