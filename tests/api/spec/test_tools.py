"""The documents in the hands of the tools that read them: a type generator with its compiler, linters, parsers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.program import ROOT
from tests.support.programs import require, require_package

BIN = ROOT / "node_modules" / ".bin"
OPENAPI = ROOT / "docs" / "openapi.json"
ASYNCAPI = ROOT / "docs" / "asyncapi.json"

PROGRAM = """
import type { components, paths } from "./generated";
import type { ConnectionEvent as Handwritten, ReasonCode, Snapshot } from "./events";

type Schemas = components["schemas"];
type Event = Schemas["ConnectionEvent"];

// what the typed client exports is what the document says, in both directions
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
const codes: Same<ReasonCode, Schemas["ReasonCode"]> = true;
const states: Same<Snapshot["state"], Schemas["LinkState"]> = true;
const snapshot: Same<Required<Snapshot>, Required<Schemas["Snapshot"]>> = true;
const types: Same<Handwritten["type"], Event["type"]> = true;
declare const received: Event;
const event: Handwritten = received;
declare const handled: Handwritten;
const back: Event = handled;

// the union is told apart by its type
export function text(event: Event): string {
  switch (event.type) {
    case "whatsapp_qr":
      return `${event.qr} ${event.index}`;
    case "whatsapp_connected":
      // @ts-expect-error: no other event's field
      return event.qr ?? event.displayName;
    case "whatsapp_failed":
      return event.reasonCode === "unreachable" ? event.userAction : event.botId;
    default:
      return event.timestamp;
  }
}

// @ts-expect-error: not one of the states
const wrong: Schemas["LinkState"] = "conected";

type Page = paths["/api/bots/{bot_id}/events"]["get"]["responses"][200]["content"]["application/json"];
export const missed = (page: Page) =>
  page.events.flatMap((entry) => entry.attempts.map((attempt) => attempt.reason?.toUpperCase() ?? entry.botId));
// @ts-expect-error: what may be left out has to be looked for
export const unchecked = (page: Page) => page.events[0]?.attempts[0]?.reason.toUpperCase();
export { back, codes, event, snapshot, states, types, wrong };
"""

PARSE = """
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[1], "utf8"));
console.log(JSON.stringify({
  messages: document?.allMessages().all().length ?? 0,
  found: diagnostics.map(({ severity, message, path }) => [severity, message, path.join("/")]),
}));
"""


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_types_are_generated_that_a_strict_program_can_use(tmp_path: Path) -> None:
    for package in ("openapi-typescript", "typescript"):
        require_package(package)
    made = run([BIN / "openapi-typescript", OPENAPI, "-o", tmp_path / "generated.ts"])
    assert made.returncode == 0, made.stderr
    shutil.copy(ROOT / "clients" / "js" / "src" / "events.ts", tmp_path)
    (tmp_path / "program.ts").write_text(PROGRAM)
    options = {"strict": True, "noEmit": True, "target": "ES2022", "module": "ESNext", "moduleResolution": "bundler"}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": {**options, "types": []}}))
    checked = run([BIN / "tsc", "-p", tmp_path])
    assert checked.returncode == 0, checked.stdout


def test_redocly_finds_nothing() -> None:
    require_package("@redocly/cli")
    done = run([BIN / "redocly", "lint", OPENAPI, "--format=json"])
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}, report["problems"]


@pytest.mark.parametrize("broken", [False, True])
def test_the_asyncapi_parser_finds_no_error(tmp_path: Path, broken: bool) -> None:
    require_package("@asyncapi/parser")
    document = json.loads(ASYNCAPI.read_text())
    if broken:  # so that its silence means something
        document["operations"]["deliver"]["action"] = "shout"
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(document))
    done = run([require("node", "apt-get install nodejs npm"), "--input-type=module", "-e", PARSE, str(path)])
    answer = json.loads(done.stdout)
    errors = [problem for problem in answer["found"] if problem[0] == 0]
    assert bool(errors) is broken, errors
    if not broken:
        assert answer["messages"] > 15
