from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roundtrip.api.problems import Problem
from roundtrip.api.routes import BodyLimits, nesting, parse_object
from roundtrip.api.schemas import LinkRequest
from tests.support.api import Api, api

LINK = "/api/bots/bot/link"


@pytest.fixture
async def served() -> AsyncIterator[Api]:
    async with api(body_limits=BodyLimits(size=2000, depth=4, seconds=0.3)) as it:
        yield it


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b"1", b'"x"', b"{", b"{]", b"\xff", b'{"phoneNumber": 1}', b'{"phoneNumber": ["x"]}', b"{}{}"],
)
async def test_what_is_no_object_of_the_kind(served: Api, body: bytes) -> None:
    status, data, _ = await served.call("PUT", LINK, data=body)
    assert (status, data["code"]) == (400, "body_invalid")
    assert not served.links.commands


async def test_too_large_is_refused_before_it_is_read_and_while_it_comes(served: Api) -> None:
    status, data, _ = await served.call("PUT", LINK, data=b"x" * 2001)
    assert (status, data["code"]) == (413, "body_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 100

    status, data, _ = await served.call("PUT", LINK, data=chunks())
    assert (status, data["code"]) == (413, "body_too_large")


async def test_exactly_the_limit_is_read(served: Api) -> None:
    status, _, _ = await served.call("PUT", LINK, data=b"{}" + b" " * 1998)
    assert status == 202


@pytest.mark.parametrize(("depth", "status"), [(3, 202), (4, 400), (1000, 400)])
async def test_nesting_has_a_limit(served: Api, depth: int, status: int) -> None:
    body = b'{"x":' + b"[" * depth + b"]" * depth + b"}"
    seen, data, _ = await served.call("PUT", LINK, data=body[:2000])
    assert seen == status
    assert status == 202 or data["code"] == "json_too_deep"


async def test_a_body_that_does_not_come_is_given_up(served: Api) -> None:
    parts = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(
            b"PUT /api/bots/bot/link HTTP/1.1\r\nHost: localhost\r\nX-User-Id: ada\r\nContent-Length: 9\r\n\r\n{"
        )
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"slow_request")
    finally:
        writer.close()
        await writer.wait_closed()
    assert b" 408 " in answer.splitlines()[0]
    assert not served.links.commands


def test_brackets_in_strings_do_not_nest() -> None:
    assert nesting(b'{"a": "[[[[[[\\"[[["}', 2) <= 2
    assert nesting(b'[["[",[[]]]]', 10) == 0  # too few brackets to be too deep
    assert nesting(b'[["[",[[]]]]', 3) == 4


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_object_or_a_problem(body: bytes) -> None:
    _parses(lambda: parse_object(body, LinkRequest, BodyLimits()))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["phoneNumber", "x", ""]), inner),
    max_leaves=40,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_JSON)
def test_any_json_is_an_object_or_a_problem(value: object) -> None:
    _parses(lambda: parse_object(msgspec.json.encode(value), LinkRequest, BodyLimits()))


def _parses(parse: Callable[[], LinkRequest]) -> None:
    try:
        result: LinkRequest | Problem = parse()
    except Problem as problem:
        result = problem
    if isinstance(result, Problem):
        assert (result.code, result.status) in {("body_invalid", 400), ("json_too_deep", 400)}
