"""Programs that tests need and a machine may lack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def require(program: str, how: str) -> str:
    """The path of a program. Without it the test is skipped, saying how to get it; in CI it fails."""
    path = shutil.which(program)
    if path is not None:
        return path
    reason = f"{program} is missing; get it with: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_package(name: str) -> Path:
    """The folder of an npm package. Without it the test is skipped, saying how to get it; in CI it fails."""
    path = ROOT / "node_modules" / name
    if path.is_dir():
        return path
    reason = f"the npm package {name} is missing; get it with: npm ci"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@asynccontextmanager
async def answering(
    process: Process, answers: Callable[[int], Awaitable[bool]], *ports: int, within: float
) -> AsyncIterator[None]:
    """Wait until a new process answers on all of its ports, `within` seconds at most; it is ended at last."""
    try:
        async with asyncio.timeout(within):
            for port in ports:
                while not await answers(port):
                    assert process.returncode is None
                    await asyncio.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
