// Preact with htm: markup as tagged templates, no build step. All text is text: nothing here becomes markup.
import { Component, h, render } from "/vendor/preact.mjs";
import htm from "/vendor/htm.mjs";

export const html = htm.bind(h);
export { Component, render };
