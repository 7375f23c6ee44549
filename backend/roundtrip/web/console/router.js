// Each view has its own address under /console/, so that it can be linked and reloaded.

const observers = new Set();

export function route() {
  const [, view = "", ...rest] = location.pathname.replace(/^\/$/, "/console/").split("/").slice(1);
  return { view, id: rest.length ? decode(rest.join("/")) : null, query: new URLSearchParams(location.search) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function go(address) {
  history.pushState(null, "", address);
  moved(true);
}

export function onMove(observer) {
  observers.add(observer);
}

export function start() {
  window.addEventListener("popstate", () => moved(false));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const url = new URL(link.href);
    if (url.origin !== location.origin || link.target || !/^\/(console\/.*)?$/.test(url.pathname)) return;
    event.preventDefault();
    go(url.pathname + url.search);
  });
}

function moved(byClick) {
  for (const observer of observers) observer();
  if (byClick) {
    scrollTo(0, 0);
    document.querySelector("main h1")?.focus(); // the reader begins where the new view does
  }
}

export const paths = {
  event: (id) => `/console/events/${encodeURIComponent(id)}`,
  trace: (id) => `/console/traces/${encodeURIComponent(id)}`,
  link: (id) => `/console/links/${encodeURIComponent(id)}`,
  key: (user, bot) => `/console/sockets?user=${encodeURIComponent(user)}${bot === null ? "" : `&bot=${encodeURIComponent(bot)}`}`,
};
