// The few lines that stand in for a framework.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id; throws when the page lacks it, so that a typo shows at once. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no #${id}`);
  return found;
}

/** Make an HTML element: attributes, then children (nodes or text). */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Change text only when it differs: a live region speaks at every change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Hide or show; a hidden element that had the focus hands it to `heir`. */
export function show(element, visible, heir) {
  if (element.hidden === !visible) return;
  const held = !visible && element.contains(document.activeElement);
  element.hidden = !visible;
  if (held && heir) heir.focus({ preventScroll: true });
}
