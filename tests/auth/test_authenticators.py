from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from pydantic import SecretStr

from roundtrip.api.problems import STATUS
from roundtrip.auth.authenticators import (
    MAX_TOKEN,
    Authenticator,
    AuthError,
    Credentials,
    JwtAuthenticator,
    TrustedAuthenticator,
)
from roundtrip.auth.authenticators import make_authenticator as authenticator_of
from roundtrip.auth.jwks import KeySet, OneKey
from roundtrip.identity import IdentityError
from roundtrip.settings import Settings
from tests.support.tokens import ISSUER, USER, confused, handmade, jwk, jwks, private_key, public_pem, token, unsigned

ALGORITHMS = ["RS256", "ES256", "EdDSA"]


def key_set(*entries: dict[str, Any]) -> KeySet:
    async def fetch() -> bytes:
        return jwks(*entries)

    return KeySet(fetch)


def authenticator(algorithm: str = "RS256", **options: Any) -> JwtAuthenticator:
    options = {"issuer": ISSUER, "audience": None, **options}
    return JwtAuthenticator(key_set(jwk(private_key(algorithm), "k0")), **options)


async def refused(auth: Authenticator, token: object, user_id: object = None) -> str:
    with pytest.raises(AuthError) as caught:
        await auth.authenticate(Credentials(token, user_id))
    assert caught.value.message.endswith("."), "a sentence for whoever has to get another token"
    return caught.value.code


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_as_clerk_makes_it(algorithm: str) -> None:
    principal = await authenticator(algorithm).authenticate(Credentials(token(algorithm=algorithm)))
    assert principal.user_id == USER
    assert principal.expires_at is not None
    assert 50 < principal.expires_at - time.time() < 61


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_settings_own_key(algorithm: str) -> None:
    auth = JwtAuthenticator(OneKey(public_pem(private_key(algorithm))), issuer=None, audience=None)
    assert (await auth.authenticate(Credentials(token(algorithm=algorithm, kid=None)))).user_id == USER
    assert await refused(auth, token(private_key(algorithm, 1), algorithm=algorithm)) == "unauthorized"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": int(time.time()) - 31},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"exp": -1},
        {"exp": str(int(time.time()) + 60)},
        {"exp": [int(time.time()) + 60]},
        {"exp": int(time.time()) + 11 * 366 * 86_400},
        {"exp": 1e308},
        {"exp": 10**400},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": -(10**400)},
        {"nbf": 10**400},
        {"iat": 10**400},
        {"nbf": int(time.time()) + 3600},
        {"iss": "https://somebody.else.test"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "u" * 129},
        {"sub": " ada"},
    ],
)
async def test_claims_that_do_not_hold(claims: dict[str, Any]) -> None:
    made = handmade(**claims)
    assert await refused(authenticator(), made) == "unauthorized"


async def test_a_token_for_years_is_a_token() -> None:
    principal = await authenticator().authenticate(Credentials(token(exp=int(time.time()) + 9 * 366 * 86_400)))
    assert principal.expires_at is not None


async def test_clocks_may_differ_by_the_leeway() -> None:
    late = token(exp=int(time.time()) - 20, nbf=int(time.time()) + 20)
    assert (await authenticator().authenticate(Credentials(late))).user_id == USER
    assert await refused(authenticator(leeway=0.0), late) == "unauthorized"


async def test_the_audience() -> None:
    auth = authenticator(audience="roundtrip")
    assert (await auth.authenticate(Credentials(token(aud=["x", "roundtrip"])))).user_id == USER
    assert await refused(auth, token(aud="x")) == "unauthorized"
    assert await refused(auth, token()) == "unauthorized"
    assert (await authenticator().authenticate(Credentials(token(aud="anything")))).user_id == USER


async def test_authorized_parties() -> None:
    auth = authenticator(authorized_parties=frozenset({"https://app.example.test"}))
    assert (await auth.authenticate(Credentials(token()))).user_id == USER
    assert await refused(auth, token(azp="https://evil.example.test")) == "unauthorized"
    assert await refused(auth, token(azp=None)) == "unauthorized"


async def test_a_token_without_a_signature() -> None:
    assert await refused(authenticator(), unsigned()) == "unauthorized"
    assert await refused(authenticator(), token() + "x") == "unauthorized"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_public_key_is_no_hmac_secret(algorithm: str) -> None:
    """The classic confusion: a token signed with HMAC, with the public key as the secret."""
    pem = public_pem(private_key(algorithm))
    for secret in (pem, pem.strip(), pem.replace("\n", "")):
        made = confused(secret.encode())
        assert await refused(authenticator(algorithm), made) == "unauthorized"
        one = JwtAuthenticator(OneKey(pem), issuer=None, audience=None)
        assert await refused(one, made) == "unauthorized"


async def test_a_shared_secret_in_the_key_set_is_not_used() -> None:
    secret = {"kty": "oct", "k": "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA", "kid": "k0", "alg": "HS256"}
    auth = JwtAuthenticator(key_set(secret, jwk(private_key("RS256"), "k1")), issuer=None, audience=None)
    assert await refused(auth, token(b"0" * 32, algorithm="HS256")) == "unauthorized"


async def test_the_token_has_no_say_in_where_its_key_comes_from() -> None:
    evil = private_key("RS256", 1)
    headers = {"jwk": jwk(evil, "k0"), "jku": "https://evil.example.test/jwks", "x5u": "https://evil.example.test"}
    assert await refused(authenticator(), token(evil, headers=headers)) == "unauthorized"


async def test_an_algorithm_other_than_the_keys_own() -> None:
    assert await refused(authenticator("RS256"), token(algorithm="ES256")) == "unauthorized"
    assert await refused(authenticator("RS256"), token(private_key("RS256"), algorithm="PS256")) == "unauthorized"


@pytest.mark.parametrize("rubbish", [None, "", 7, {}, "a.b.c", "....", "é", "x" * 10_000, "eyJ9.e30.", b"bytes"])
async def test_rubbish(rubbish: object) -> None:
    assert await refused(authenticator(), rubbish) == "unauthorized"


async def test_a_key_not_ones_own_is_forbidden() -> None:
    assert await refused(authenticator(), token(), "somebody else") == "forbidden"
    assert await refused(authenticator(), token(), 7) == "forbidden"
    assert (await authenticator().authenticate(Credentials(token(), USER))).user_id == USER


async def test_trusted_believes_a_well_formed_id() -> None:
    assert (await TrustedAuthenticator().authenticate(Credentials(user_id="ada"))).user_id == "ada"
    for wrong in (None, "", 7, "u" * 129):
        with pytest.raises(IdentityError) as caught:
            await TrustedAuthenticator().authenticate(Credentials(user_id=wrong))
        assert caught.value.code == "user_id_invalid"


async def test_the_settings_choose() -> None:
    assert isinstance(authenticator_of(Settings(auth="trusted")), TrustedAuthenticator)
    pem = SecretStr(public_pem(private_key("ES256")).replace("\n", "\\n"))
    auth = authenticator_of(Settings(auth="jwt", jwt_public_key=pem, jwt_issuer=ISSUER))
    assert (await auth.authenticate(Credentials(token(algorithm="ES256")))).user_id == USER
    assert await refused(auth, token(algorithm="ES256", iss="x")) == "unauthorized"


async def test_a_check_with_cached_keys_takes_under_a_millisecond() -> None:
    auth = authenticator()
    made = token()
    await auth.authenticate(Credentials(made))
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(20):
            await auth.authenticate(Credentials(made))
        best = min(best, (time.perf_counter() - began) / 20)
    print(f"one token checked in {best * 1e6:.0f} µs")
    assert best < 0.001


async def test_a_token_has_a_bound_though_it_is_signed() -> None:
    auth = authenticator()
    assert await refused(auth, token(padding="x" * MAX_TOKEN)) == "unauthorized"
    assert (await auth.authenticate(Credentials(token(padding="x" * (MAX_TOKEN // 2))))).user_id == USER


async def test_without_keys_a_token_cannot_be_checked_and_the_caller_may_come_back() -> None:
    async def down() -> bytes:
        raise OSError("no route")

    auth = JwtAuthenticator(KeySet(down, min_interval=7.0), issuer=ISSUER, audience=None)
    with pytest.raises(AuthError) as caught:
        await auth.authenticate(Credentials(token()))
    assert (caught.value.code, STATUS[caught.value.code], caught.value.retry_after) == ("unavailable", 503, 7.0)


async def test_the_close_ends_a_fetch_of_keys_under_way() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hanging() -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    auth = JwtAuthenticator(KeySet(hanging), issuer=ISSUER, audience=None)
    await auth.close()  # nothing is under way
    asking = asyncio.ensure_future(auth.authenticate(Credentials(token())))
    async with asyncio.timeout(5):
        await begun.wait()
        await auth.close()
    assert ended.is_set()
    await asyncio.gather(asking, return_exceptions=True)
