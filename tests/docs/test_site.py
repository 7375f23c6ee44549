"""The documents: a site without a broken link, settings that exist, and sign-in recipes that let their tokens in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from roundtrip.auth.authenticators import AuthError, Credentials, JwtAuthenticator
from roundtrip.auth.jwks import OneKey
from roundtrip.environment import FILE_SUFFIX, SECRETS, variable
from roundtrip.settings import Settings
from tests.support.program import ROOT
from tests.support.tokens import private_key, public_pem, token

DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("dashboards/runbooks/*.md")})
_LINK = re.compile(r"\]\(([^)\s]+)\)")

FOR_TESTS = re.compile(r"ROUNDTRIP_(CHAOS|MODEL|SOAK|FUZZ|HEALING|CHURN|FLOOD|MEASURE)\w*")
"""Variables that tests read, not the program."""

GONE = {"ROUNDTRIP_OUTBOX"}
"""Settings of earlier versions, which the documents name to say what replaces them."""


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """`--strict`: each link and each anchor leads somewhere. With `--quiet` mkdocs would count no warning."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    for page in ("index", "deploy", "settings", "reference", "identity", "troubleshooting", "glossary", "architecture"):
        assert (tmp_path / page / "index.html" if page != "index" else tmp_path / "index.html").is_file(), page


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_to_a_file(path: Path) -> None:
    """In the repository too, where the documents are read without the site."""
    for target in _LINK.findall(path.read_text()):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_setting_that_is_named_exists(path: Path) -> None:
    known = {variable(name) for name in Settings.model_fields} | {variable(name) + FILE_SUFFIX for name in SECRETS}
    named = set(re.findall(r"\bROUNDTRIP_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
    assert {name for name in named - known - GONE if not FOR_TESTS.fullmatch(name)} == set()


RECIPES: dict[str, dict[str, Any]] = {
    "Clerk": {"iss": "https://YOUR-APP.clerk.accounts.dev", "azp": "https://app.example", "sub": "user_2zoIWphp"},
    "Auth0": {
        "iss": "https://YOUR-TENANT.auth0.com/",
        "aud": ["https://roundtrip.api", "https://YOUR-TENANT.auth0.com/userinfo"],
        "azp": "client-id",
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
    },
    "Supabase": {
        "iss": "https://YOUR-PROJECT.supabase.co/auth/v1",
        "aud": "authenticated",
        "sub": "9b2f4a4e-2a48-4f7c-9d6d-0d5a3a1f0c11",
        "azp": None,
    },
    "Firebase": {
        "iss": "https://securetoken.google.com/YOUR-PROJECT",
        "aud": "YOUR-PROJECT",
        "sub": "k7Yb0cVvJvT6v5r5y5w5",
        "azp": None,
    },
}
"""The claims that matter of each provider's tokens."""


def recipe(provider: str) -> dict[str, str]:
    """The settings of a provider's recipe, by their names."""
    text = (ROOT / "docs" / "identity.md").read_text()
    block = re.search(rf"### {provider}\n+```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return {name.lower(): value for name, value in re.findall(r"^ROUNDTRIP_(\w+)=(\S+)", block[1], re.MULTILINE)}


@pytest.mark.parametrize("provider", RECIPES)
async def test_a_recipe_lets_its_providers_tokens_in_and_no_others(provider: str) -> None:
    settings = Settings(**recipe(provider))  # type: ignore[arg-type]  # the environment's words, which it converts
    assert settings.jwks_url is not None
    key = private_key("RS256")
    authenticator = JwtAuthenticator(
        OneKey(public_pem(key)),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        authorized_parties=frozenset(settings.jwt_authorized_parties),
    )
    claims = RECIPES[provider]
    principal = await authenticator.authenticate(Credentials(token(key, **claims)))
    assert principal.user_id == claims["sub"]
    bound = "azp" if provider == "Clerk" else "aud"
    wrong: list[dict[str, Any]] = [
        {"iss": "https://elsewhere.example"},
        {bound: "another"},
        {"exp": int(time.time()) - 99},
    ]
    for change in wrong:
        with pytest.raises(AuthError):
            await authenticator.authenticate(Credentials(token(key, **{**claims, **change})))
