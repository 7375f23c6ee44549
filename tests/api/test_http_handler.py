"""Malformed requests: each gets a problem document that repeats nothing of it, and no connection leaks."""

from __future__ import annotations

import asyncio
import gc

import aiohttp
import msgspec
import pytest

from roundtrip.api.http_handler import HttpHandler
from roundtrip.api.listener import ConnectionGuard
from tests.support.listener import connected, ended, listening
from tests.support.py_client import eventually

SECRET = b"s3cr3t-of-the-sender"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"rubbish " + SECRET + b"\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET + b"\x00\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization\x01" + SECRET + b": x\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: " + SECRET + b"\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, "request_malformed"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "request_malformed",
        ),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 400, "request_malformed"),
        (b"GET http://[" + SECRET + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, "request_malformed"),
        (b"GET /" + SECRET * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "line_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: " + SECRET * 1000 + b"\r\n\r\n", 431, "header_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + SECRET * 1000 + b": x\r\n\r\n", 431, "header_too_long"),
        (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 400, "http_version"),
        (b"GET /\r\n\r\n", 400, None),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400, "request_malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, None),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET, 400, "request_malformed"),  # TLS
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: " + SECRET + b"\r\n\r\n", 417, "expectation_failed"),
    ],
)
async def test_what_is_no_request_gets_a_problem_document_that_repeats_nothing(
    data: bytes, status: int, code: str | None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with listening() as (number, port, refused), connected(number) as (reader, writer):
        writer.write(data)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = await reader.readexactly(int(answer.lower().partition("content-length: ")[2].partition("\r")[0]))
        assert answer.startswith((f"HTTP/1.1 {status} ", f"HTTP/1.0 {status} ")), answer
        assert "\r\nContent-Type: application/problem+json" in answer
        assert "\r\nserver:" not in answer.lower()
        problem = msgspec.json.decode(body)
        assert problem["status"] == status
        assert problem["code"] == code or code is None
        seen = answer + body.decode() + caplog.text + "".join(capsys.readouterr())
        assert SECRET.decode() not in seen
        assert not [version for version in ("aiohttp", "Python/") if version in answer + body.decode()]
        if code != "expectation_failed":
            await ended(reader)
            assert refused == [f"malformed: {'malformed' if code in (None, 'request_malformed') else code}"] or (
                code is None and refused == ["malformed: http_version"]
            )
            await eventually(lambda: port.open == 0)


async def test_malformed_requests_are_each_counted_and_seldom_logged(capsys: pytest.CaptureFixture[str]) -> None:
    async with listening() as (number, _, refused):

        async def send() -> bytes:
            async with connected(number) as (reader, writer):
                writer.write(b"rubbish\r\n\r\n")
                return await ended(reader)

        answers = await asyncio.gather(*(send() for _ in range(50)))
        assert all(b" 400 " in answer for answer in answers)
        assert refused == ["malformed: malformed"] * 50
        assert "".join(capsys.readouterr()).count("request_malformed") == 1


async def test_a_closed_connection_is_freed_by_counting_alone() -> None:
    """The collector runs seldom: what a connection leaves in a cycle stays for minutes."""

    def live_connections() -> int:
        return sum(isinstance(one, ConnectionGuard | HttpHandler) for one in gc.get_objects())

    async with listening() as (number, port, _):
        gc.collect()
        gc.disable()
        try:
            for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"rubbish\r\n\r\n", b"GET / HT", b""):
                for _ in range(5):
                    async with connected(number) as (reader, writer):
                        writer.write(data)
                        if len(data) > 10:
                            await reader.readline()
                await eventually(lambda: port.open == 0)
            async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{number}/") as ws:
                await ws.send_str("a")
                await ws.receive_str()
            await eventually(lambda: port.open == 0)
            await eventually(lambda: live_connections() == 0)
        finally:
            gc.enable()
