// What runs first: opens the connection while the rest of the page still loads, which saves a slow line a second.

import { Connection } from "./connection.js";

/** The backend's configuration, which it writes into the page; the strictest driver where it says nothing. */
export const config = {
  driver: "neonize",
  auth: "trusted",
  faultsAllowed: false,
  actions: [],
  sharedStore: false,
  ...JSON.parse(document.querySelector('meta[name="roundtrip-config"]').content || "{}"),
};

const STORE = "roundtrip.identity";
const DEFAULTS = { userId: "demo", botId: "bot-1" };

/** The ids that this browser used last. A token is never stored. */
export const remembered = { ...DEFAULTS, ...load() };

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    return Object.fromEntries(Object.entries(stored).filter(([, value]) => typeof value === "string"));
  } catch {
    return {}; // storage is off, or holds something else: the defaults do
  }
}

export function remember(ids) {
  try {
    localStorage.setItem(STORE, JSON.stringify(ids));
  } catch {
    // storage is off: the fields keep it until the tab closes
  }
}

/** What it hears is held until `release()`. */
export const connection = new Connection(Boolean(config.sharedStore));

if (config.auth !== "jwt") connection.open(remembered);
