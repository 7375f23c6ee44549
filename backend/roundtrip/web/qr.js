// The QR code, drawn here: it is a secret and goes to nobody. Fetched when the first code is near.

import qrcode from "./vendor/qrcode.mjs";
import { svg } from "./dom.js";

const QUIET = 4; // modules of white that a scanner needs around the code

/** The code as one SVG path, black on white in dark mode too: scanners expect it. */
export function drawQr(text) {
  const code = qrcode(0, "L"); // the phone is close and the screen is clean: large modules beat redundancy
  code.addData(text);
  code.make();
  const count = code.getModuleCount();
  let path = "";
  for (let row = 0; row < count; row += 1) {
    for (let start = 0; start < count; start += 1) {
      if (!code.isDark(row, start)) continue;
      let end = start;
      while (end + 1 < count && code.isDark(row, end + 1)) end += 1;
      path += `M${start + QUIET} ${row + QUIET}h${end - start + 1}v1H${start + QUIET}z`;
      start = end;
    }
  }
  const size = count + 2 * QUIET;
  return svg(
    "svg",
    {
      class: "qr",
      viewBox: `0 0 ${size} ${size}`,
      role: "img",
      "aria-label": "QR code to scan with WhatsApp on your phone",
      "shape-rendering": "crispEdges",
      "data-modules": count,
    },
    svg("rect", { width: size, height: size, fill: "#fff" }),
    svg("path", { d: path, fill: "#000" }),
  );
}
