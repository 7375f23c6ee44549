// Named failure switches. Shown only where the backend allows them.

import { byId, h } from "./dom.js";
import { humane } from "./words.js";

/** `faults` are `{name, active, expect?}`; `onSwitch(name, on)` returns whether it worked. */
export function showFaults(faults, onSwitch) {
  const rows = faults.map((fault) => {
    const hint = `fault-${fault.name}-hint`;
    const box = h("input", { type: "checkbox", role: "switch", id: `fault-${fault.name}`, "aria-describedby": hint });
    box.checked = Boolean(fault.active);
    box.addEventListener("change", async () => {
      const wanted = box.checked;
      if (!(await onSwitch(fault.name, wanted))) box.checked = !wanted;
    });
    return h(
      "li",
      {},
      box,
      h("label", { for: box.id }, humane(fault.name).replace("Whatsapp", "WhatsApp")),
      h("small", { id: hint }, fault.expect ?? fault.description ?? ""),
    );
  });
  byId("fault-list").replaceChildren(...rows);
  byId("faults").hidden = rows.length === 0;
}
