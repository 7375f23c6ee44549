from __future__ import annotations

import asyncio

import msgspec
import pytest
from aiohttp import web

from roundtrip.auth import jwks as jwks_module
from roundtrip.auth.jwks import KeySet, KeysUnavailable, OneKey, fetch, parse_jwks
from tests.support.api import serving
from tests.support.tokens import jwk, jwks, private_key, public_pem


class Issuer:
    """An issuer's key document, and a clock."""

    def __init__(self) -> None:
        self.document = jwks(jwk(private_key("ES256"), "old"))
        self.down = False
        self.fetches = 0
        self.now = 1000.0
        self.keys = KeySet(
            self.fetch, max_age=600, min_interval=10, outage=200_000, empty_grace=300, clock=lambda: self.now
        )

    async def fetch(self) -> bytes:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.down:
            raise OSError("unreachable")
        return self.document

    async def has_key(self, kid: str) -> bool:
        return await self.keys.key(kid) is not None


async def test_fetched_once_for_many_at_once() -> None:
    issuer = Issuer()
    assert all(await asyncio.gather(*(issuer.has_key("old") for _ in range(50))))
    assert issuer.fetches == 1


async def test_an_unknown_key_is_looked_up_but_not_over_and_over() -> None:
    issuer = Issuer()
    assert await issuer.has_key("old")
    for _ in range(100):
        assert not await issuer.has_key("made up")
    assert issuer.fetches == 1  # the set is fresh: 10 s have not passed
    issuer.document = jwks(jwk(private_key("ES256"), "old"), jwk(private_key("ES256", 1), "new"))
    assert not await issuer.has_key("new")
    issuer.now += 10
    assert await issuer.has_key("new")
    assert issuer.fetches == 2


async def test_kept_through_an_outage() -> None:
    issuer = Issuer()
    assert await issuer.has_key("old")
    issuer.down = True
    issuer.now += 100_000
    for _ in range(5):
        assert await issuer.has_key("old")
        await asyncio.sleep(0.01)
    assert issuer.fetches == 2
    issuer.document = jwks(jwk(private_key("ES256", 1), "new"))
    issuer.down = False
    issuer.now += 10
    assert await issuer.has_key("new")


async def settled(issuer: Issuer) -> None:
    """Until no fetch is under way."""
    async with asyncio.timeout(5):
        while issuer.keys._refreshing is not None:
            await asyncio.sleep(0)


async def test_an_outage_is_outlived_only_for_so_long(capsys: pytest.CaptureFixture[str]) -> None:
    issuer = Issuer()
    assert await issuer.has_key("old")
    issuer.down = True
    issuer.now += 199_999
    assert await issuer.has_key("old")
    await settled(issuer)
    issuer.now += 1
    with pytest.raises(KeysUnavailable):  # for the caller: try again, it is not your token
        await issuer.keys.key("old")
    issuer.now += 10
    issuer.down = False
    assert await issuer.has_key("old")
    assert "".join(capsys.readouterr()).count("jwks_keys_too_old") == 1


@pytest.mark.parametrize("nothing", [jwks(), jwks({"kty": "oct", "k": "c2VjcmV0"}), jwks({})])
async def test_an_issuer_without_keys_is_believed_after_a_grace(
    nothing: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = Issuer()
    assert await issuer.has_key("old")
    issuer.document = nothing
    issuer.now += 600
    assert await issuer.has_key("old")
    await settled(issuer)
    fetches = issuer.fetches
    for _ in range(29):
        issuer.now += 10
        assert await issuer.has_key("old")
        await settled(issuer)
    assert issuer.fetches == fetches + 29  # asked again soon: a mistake is mended within seconds
    issuer.now += 10
    assert not await issuer.has_key("old")  # no KeysUnavailable: it was said that there is no key
    logged = "".join(capsys.readouterr())
    assert (logged.count("jwks_empty"), logged.count("jwks_keys_withdrawn")) == (1, 1)
    issuer.document = jwks(jwk(private_key("ES256"), "old"))
    issuer.now += 10
    assert await issuer.has_key("old")


async def test_an_issuer_that_mends_a_mistake_in_time_loses_nobody() -> None:
    issuer = Issuer()
    assert await issuer.has_key("old")
    for document in (jwks(), jwks(jwk(private_key("ES256"), "old")), jwks()):
        issuer.document = document
        for _ in range(2):
            issuer.now += 600 if not issuer.keys._empty_since else 140
            assert await issuer.has_key("old")
            await settled(issuer)


async def test_an_issuer_that_never_had_a_key_lets_nobody_in() -> None:
    issuer = Issuer()
    issuer.document = jwks()
    assert not await issuer.has_key("old")


async def test_an_old_set_is_renewed_while_it_still_serves() -> None:
    issuer = Issuer()
    assert await issuer.has_key("old")
    issuer.document = jwks(jwk(private_key("ES256", 1), "new"))
    issuer.now += 600
    assert await issuer.has_key("old")  # nobody waits
    async with asyncio.timeout(5):
        while await issuer.has_key("old"):
            await asyncio.sleep(0)
    assert await issuer.has_key("new")  # a key that was withdrawn is gone


async def test_no_key_was_ever_fetched() -> None:
    issuer = Issuer()
    issuer.down = True
    for _ in range(3):
        with pytest.raises(KeysUnavailable) as caught:
            await issuer.keys.key("old")
        assert caught.value.retry_after == 10
    assert issuer.fetches == 1
    issuer.down = False
    issuer.now += 10
    assert await issuer.has_key("old")


async def test_a_token_without_a_key_id_where_there_is_no_choice() -> None:
    issuer = Issuer()
    assert await issuer.keys.key(None) is not None
    issuer.document = jwks(jwk(private_key("ES256"), "a"), jwk(private_key("ES256", 1), "b"))
    issuer.now += 600
    await issuer.keys.key("a")
    async with asyncio.timeout(5):
        while await issuer.keys.key(None) is not None:
            await asyncio.sleep(0)


async def test_a_key_id_that_is_no_text() -> None:
    issuer = Issuer()
    for kid in (7, ["old"], {"old": 1}):
        assert await issuer.keys.key(kid) is None
    assert issuer.fetches == 0


def test_only_keys_that_are_used_here_are_read() -> None:
    rsa, ec = jwk(private_key("RS256"), "rsa"), jwk(private_key("ES256"), "ec")
    document = jwks(
        {**rsa, "key_ops": ["verify"]},
        {**ec, "key_ops": ["sign", "verify"]},
        {**rsa, "kid": "signs", "key_ops": ["sign"]},
        {**rsa, "kid": "does nothing", "key_ops": []},
        {**rsa, "kid": "operations of no kind", "key_ops": "verify"},
        jwk(private_key("EdDSA"), "ed"),
        {**rsa, "kid": "encryption", "use": "enc"},
        {**rsa, "kid": "ps256", "alg": "PS256"},
        {**ec, "kid": "p384", "crv": "P-384"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "hmac"},
        {"kty": "RSA", "kid": "broken"},
        {"kid": 7, **{k: v for k, v in rsa.items() if k != "kid"}},
        {},
    )
    keys = parse_jwks(document)
    assert {str(kid): key.algorithm for kid, key in keys.items()} == {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": 1}', b"<html>", b'{"keys": [1]}'])
def test_what_is_no_key_document(document: bytes) -> None:
    with pytest.raises((ValueError, msgspec.DecodeError)):
        parse_jwks(document)


@pytest.mark.parametrize("pem", ["", "rubbish", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_a_setting_that_is_no_key(pem: str) -> None:
    with pytest.raises(ValueError, match="must be a public key in PEM"):
        OneKey(pem)


def test_a_weak_key_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    with pytest.raises(ValueError, match="2048 bits"):
        OneKey(public_pem(rsa.generate_private_key(65537, 1024)))  # noqa: S505  # weak on purpose


async def test_fetching_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def good(_request: web.Request) -> web.Response:
        return web.Response(body=b"{}" * 100)

    async def moved(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/good")

    async def huge(_request: web.Request) -> web.Response:
        return web.Response(body=b" " * (jwks_module.MAX_BYTES + 1))

    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    app = web.Application()
    for handler in (good, moved, huge, slow):
        app.router.add_get(f"/{handler.__name__}", handler)
    async with serving(app) as url:
        assert await fetch(f"{url}/good") == b"{}" * 100
        with pytest.raises(ValueError, match="302"):
            await fetch(f"{url}/moved")
        with pytest.raises(ValueError, match="too large"):
            await fetch(f"{url}/huge")
        monkeypatch.setattr(jwks_module, "FETCH_TIMEOUT", 0.2)
        with pytest.raises(TimeoutError):
            await fetch(f"{url}/slow")


async def test_fetching_goes_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def proxy(request: web.Request) -> web.Response:
        asked.append(str(request.url))
        return web.Response(body=b"{}")

    app = web.Application()
    app.router.add_get("/keys", proxy)
    async with serving(app) as url:
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert await fetch("http://issuer.invalid/keys") == b"{}"
    assert asked == ["http://issuer.invalid/keys"]
