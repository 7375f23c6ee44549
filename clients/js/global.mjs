// Writes dist/roundtrip.global.js, for pages without a build step: `window.Roundtrip`, on top of `window.io`
// (socket.io-client/dist/socket.io.min.js). Usage: node global.mjs [folder of the built modules]

import { readFileSync, writeFileSync } from "node:fs";
import ts from "typescript";

const folder = process.argv[2] ?? new URL("dist", import.meta.url).pathname;
const options = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022 };
const module = (name) =>
  `${JSON.stringify(`./${name}.js`)}: (exports, require) => {\n` +
  `${ts.transpileModule(readFileSync(`${folder}/${name}.js`, "utf8"), { compilerOptions: options }).outputText}}`;
writeFileSync(
  `${folder}/roundtrip.global.js`,
  `"use strict";
window.Roundtrip = (() => {
const modules = {${["events", "index"].map(module).join(",\n")}};
const made = { "socket.io-client": { io: window.io } };
const require = (name) => {
  if (!made[name]) modules[name]((made[name] = {}), require);
  return made[name];
};
return require("./index.js");
})();
`,
);
