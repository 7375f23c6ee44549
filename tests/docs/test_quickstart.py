"""The quickstart does what it says: its program, its snippet and its request, with what one should then see."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest

from tests.support.program import BACKEND, ROOT, running
from tests.support.programs import require

TEXT = (ROOT / "docs" / "index.md").read_text()


def block(language: str, having: str) -> str:
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL) if having in text]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.skipif(not (ROOT / "node_modules").exists(), reason="node_modules is missing; get it with: make install")
async def test_the_first_frontend_sees_what_the_quickstart_says(tmp_path: Path) -> None:
    node, curl = require("node", "apt-get install nodejs"), require("curl", "apt-get install curl")
    async with running(tmp_path, command=(*BACKEND, "demo")) as program:
        assert f'roundtrip: open {program.url} in a browser and press "Link WhatsApp"' in program.text()
        script = block("js", "socket.io-client").replace("http://127.0.0.1:8080", program.url)
        request = shlex.split(block("sh", "curl -X PUT").replace("http://127.0.0.1:8080", program.url))
        page = await asyncio.create_subprocess_exec(
            node, "--input-type=module", "-e", script, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert page.stdout is not None
            async with asyncio.timeout(15):
                seen = [(await page.stdout.readline()).decode().strip()]
                asked = await asyncio.create_subprocess_exec(curl, "-s", "-o", "/dev/null", *request[1:])
                assert await asked.wait() == 0
                while len(seen) < 3:
                    seen.append((await page.stdout.readline()).decode().strip())
        finally:
            page.kill()
            await page.wait()
    promised = re.search(r"The console prints (.*?)\. Next:", TEXT, re.DOTALL)
    assert promised is not None
    assert seen == re.findall(r"`([^`]+)`", promised[1])
