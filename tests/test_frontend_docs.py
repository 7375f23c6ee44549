"""The examples of docs/frontend.md are run, or compiled, as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from roundtrip.api.spec.openapi import DOCS
from roundtrip.auth.authenticators import JwtAuthenticator
from roundtrip.auth.jwks import OneKey
from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.limits.rates import Limits, Rules
from roundtrip.settings import Settings
from roundtrip.sockets.access import Admission, SocketAccess
from roundtrip.sockets.messages import REFUSALS
from tests.clients.build import built
from tests.support.drafts import entry_with
from tests.support.inside import inside
from tests.support.lives import connect, ended
from tests.support.programs import require, require_package
from tests.support.py_client import eventually, py_client
from tests.support.sockets import Stage, stage
from tests.support.tokens import ISSUER, USER, private_key, public_pem, token

TEXT = (DOCS / "frontend.md").read_text()
KEY = BotKey(USER, "bot")
CONNECTED = Connected("+4915112345678", "Ada", first=True)


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def blocks(language: str) -> list[str]:
    """The examples in a language."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@asynccontextmanager
async def served(clock: Clock) -> AsyncIterator[tuple[Stage, SocketAccess]]:
    limits = Limits(Rules.of(Settings(auth="trusted")), lambda _limit: None)
    identity = JwtAuthenticator(OneKey(public_pem(private_key("ES256"))), issuer=ISSUER, audience=None)
    admission = Admission(identity, limits)
    door = SocketAccess(admission.identify, limits, now=clock)
    async with stage(admit=admission, door=door, ack_timeout=1.0) as s:
        yield s, door


@asynccontextmanager
async def node(url: str, tokens: list[str | None]) -> AsyncIterator[list[Any]]:
    """Runs the JavaScript example; yields what it shows, handles and gives up on, as it does. `getToken` gives one of
    `tokens` after the other, rejects for None, and stays with the last. Its pauses are a twentieth as long."""
    around = f"""
        const BACKEND = {json.dumps(url)}, BOT_ID = "bot", tokens = {json.dumps(tokens)};
        const say = (...what) => process.stdout.write(JSON.stringify(what) + "\\n");
        const setTimeout = (work, ms) => globalThis.setTimeout(work, ms / 20);
        const getToken = async () => {{
          const token = tokens.length > 1 ? tokens.shift() : tokens[0];
          if (token === null) throw new Error("no token now");
          return token;
        }};
        const show = (it) => say("show", it), handle = (it) => say("handle", it), giveUp = (it) => say("giveUp", it);
    """
    process = await asyncio.create_subprocess_exec(
        require("node", "apt-get install nodejs npm"),
        "--input-type=module",
        "--eval",
        blocks("js")[0].replace("const seen", around + "const seen", 1),
        cwd=DOCS.parent,
        stdout=asyncio.subprocess.PIPE,
    )
    said: list[Any] = []

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said.append(json.loads(line))  # noqa: PERF401  # each is looked at as it comes

    reading = asyncio.create_task(read())
    try:
        yield said
    finally:
        process.kill()
        await process.wait()
        await reading


async def test_the_javascript_example() -> None:
    clock = Clock()
    later = int(time.time()) + 600
    tokens: list[str | None] = [token(algorithm="ES256"), token(algorithm="ES256", exp=later)]
    async with served(clock) as (s, door):
        early = await s.courier.publish(KEY, "link", CONNECTED)
        async with node(s.url, tokens) as said:
            await eventually(lambda: [what for what, _ in said].count("handle") == 1, within=10)
            assert said[0][0] == "show"
            live = await s.courier.publish(KEY, "link", CONNECTED)
            await eventually(lambda: [it["id"] for what, it in said if what == "handle"] == [early.id, live.id])
            for seq in (early.seq, live.seq):
                await entry_with(s.outbox, KEY, seq, lambda entry: entry.outcome.name == "ACKED")
            (peer,) = s.registry.of(KEY)
            clock.ahead = 70
            await door.check_expiry([peer])  # the token ran out: the example renews it
            await eventually(lambda: peer.expires_at == later)


@pytest.mark.parametrize("first", [None, "expired"])
async def test_the_javascript_example_gets_over_a_token_that_failed(first: str | None) -> None:
    """`getToken` that rejects hangs nothing; a token that has expired by the connect is replaced."""
    bad = None if first is None else token(algorithm="ES256", exp=int(time.time()) - 600)
    async with served(Clock()) as (s, _), node(s.url, [bad, bad, token(algorithm="ES256")]) as said:
        await eventually(lambda: said and said[-1][0] == "show", within=10)
        await s.courier.publish(KEY, "link", CONNECTED)
        await eventually(lambda: said[-1][0] == "handle")


async def test_the_javascript_example_comes_back_after_a_token_that_was_not_renewed() -> None:
    clock = Clock()
    good = token(algorithm="ES256")
    async with (
        served(clock) as (s, door),
        node(s.url, [good, None, token(algorithm="ES256", exp=int(time.time()) + 6000)]) as said,
    ):
        await eventually(lambda: said and said[-1][0] == "show", within=10)
        (peer,) = s.registry.of(KEY)
        clock.ahead = 70
        await door.check_expiry([peer])
        clock.ahead = 1000
        await door.check_expiry([peer])
        await eventually(lambda: len(said) == 2, within=10)


async def test_the_javascript_example_gives_up_where_it_should() -> None:
    async with served(Clock()) as (s, _), node(s.url, ["rubbish"]) as said:
        await eventually(lambda: said == [["giveUp", "unauthorized"]], within=10)


async def test_the_python_example() -> None:
    handled: list[Any] = []

    async def handle(data: Any) -> None:
        handled.append(data["id"])

    code = "\n".join(f"    {line}" for line in blocks("python")[0].splitlines())
    async with served(Clock()) as (s, _):
        stored = await s.courier.publish(KEY, "link", CONNECTED)
        names: dict[str, Any] = {
            "BACKEND": s.url,
            "BOT_ID": "bot",
            "token": token(algorithm="ES256"),
            "handle": handle,
        }
        exec(f"async def example(made):\n{code}\n".replace("client = ", "client = made['client'] = "), names)  # noqa: S102  # our own text
        made: dict[str, Any] = {}
        running = asyncio.create_task(names["example"](made))
        await eventually(lambda: handled == [stored.id])
        await entry_with(s.outbox, KEY, 1, lambda entry: entry.outcome.name == "ACKED")
        await made["client"].disconnect()
        await running


@pytest.fixture
def beside_the_client() -> Iterator[Path]:
    """A folder from which TypeScript finds the client that is built."""
    with tempfile.TemporaryDirectory(prefix="docs-", dir=built()) as folder:
        yield Path(folder)


def test_the_typed_examples_compile(beside_the_client: Path) -> None:
    """Under `tsc --strict`, against the client that is built."""
    folder = beside_the_client
    around = """
        declare const BACKEND: string, BOT_ID: string;
        declare function getToken(ask?: { skipCache: boolean }): Promise<string>;
        declare type How = { stale: boolean; problem: string | undefined };
        declare function show(snapshot: import("roundtrip-client").Snapshot | null, how: How): void;
        declare function QrCode(props: { text: string }): import("react").ReactElement;
    """
    (folder / "around.d.ts").write_text(around)
    typed = [("ts", text) for text in blocks("ts")] + [("tsx", text) for text in blocks("tsx")]
    assert len(typed) == 3
    for number, (kind, text) in enumerate(typed):
        (folder / f"example{number}.{kind}").write_text(text)
    narrow = "console.log(`${event.displayName} is linked`)"
    assert narrow in blocks("ts")[0]  # and what an event of this type does not have is an error:
    wrong = blocks("ts")[0].replace(narrow, "console.log(\n// @ts-expect-error\nevent.qr)")
    (folder / "wrong.ts").write_text(wrong)
    options = {
        "strict": True,
        "noEmit": True,
        "jsx": "react-jsx",
        "target": "ES2022",
        "lib": ["ES2022", "DOM"],
        "module": "ESNext",
        "moduleResolution": "bundler",
        "types": [],
        "exactOptionalPropertyTypes": True,
        "skipLibCheck": True,
        "paths": {"roundtrip-client": ["../dist/index.d.ts"], "roundtrip-client/*": ["../dist/*.d.ts"]},
    }
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "include": ["*"]}))
    compile_ = [str(DOCS.parent / "node_modules" / ".bin" / "tsc"), "-p", str(folder)]
    done = subprocess.run(compile_, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


async def test_the_commands_example(tmp_path: Path) -> None:
    key = private_key("ES256")
    async with inside(tmp_path, auth="jwt", jwt_public_key=public_pem(key)) as program:
        made = token(key, algorithm="ES256", kid=None)
        around = (
            f"const BACKEND = {json.dumps(program.url)}, BOT_ID = 'bot', getToken = async () => {json.dumps(made)};\n"
        )
        code = (
            (around + blocks("js")[1])
            .replace("await fetch(", "console.log((await fetch(")
            .replace(" });", " })).status);")
        )
        process = await asyncio.create_subprocess_exec(
            require("node", "apt-get install nodejs npm"),
            "--input-type=module",
            "--eval",
            code,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert output.split() == [b"202", b"202", b"200"]


async def test_the_trace_example_with_opentelemetrys_own_packages(tmp_path: Path) -> None:
    """The events' last spans, one of a handler that failed, are in the traces that the console shows."""
    require_package("@opentelemetry/sdk-trace-base")
    (code,) = [text for text in blocks("js") if "@opentelemetry/api" in text]
    async with inside(tmp_path, browser_traces=True) as program:
        async with py_client(program.url) as page:
            await connect(program.user())
            await page.count(4)
            good, bad, *_ = page.events
            await ended(program.user(), 4, "acked")
        around = f"const BACKEND = {json.dumps(program.url)}, getToken = async () => 'none';\n"
        run = f"""
            traced({json.dumps(good)}, () => {{}});
            try {{ traced({json.dumps(bad)}, () => null.x); }} catch {{}}
            await provider.shutdown();
        """
        headers = "headers: async () => ({"
        process = await asyncio.create_subprocess_exec(
            require("node", "apt-get install nodejs npm"),
            "--input-type=module",
            "--eval",
            around + code.replace(headers, f'{headers} "X-User-Id": "user",') + run,
            cwd=DOCS.parent,
        )
        assert await process.wait() == 0
        samples = await program.user().metrics()
        assert samples['roundtrip_page_spans_total{result="accepted"}'] == 2
        for event, error in ((good, None), (bad, "TypeError")):
            _, story, _ = await program.admin("GET", f"/debug/console/events/{event['id']}")
            (process_span,) = [span for span in story["traces"]["spans"] if span["name"] == f"process {event['type']}"]
            assert process_span["error"] == error
            assert process_span["attributes"]["roundtrip.attempt.number"] == 1


def test_every_refusal_is_explained() -> None:
    for code in REFUSALS:
        assert f"`{code}`" in TEXT.partition("## Refusals")[2]
