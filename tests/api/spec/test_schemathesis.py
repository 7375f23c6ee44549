"""Schemathesis over the document that is shipped, against the running application."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

import pytest

from roundtrip.api.spec.openapi import DOCS
from roundtrip.auth.authenticators import JwtAuthenticator
from roundtrip.auth.jwks import OneKey
from tests.support.api import api
from tests.support.tokens import ISSUER, private_key, public_pem, token

EXAMPLES = 40
"""Cases per operation and phase."""


@pytest.mark.slow
async def test_the_api_keeps_to_its_document_whatever_it_is_sent(tmp_path: Path) -> None:
    identity = JwtAuthenticator(OneKey(public_pem(private_key("ES256"))), issuer=ISSUER, audience=None)
    made = token(algorithm="ES256", exp=int(time.time()) + 3600)
    async with api(authenticator=identity, trusted=False) as served:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            str(DOCS / "openapi.json"),
            f"--url={served.url}",
            f"--header=Authorization: Bearer {made}",
            "--checks=all",
            "--exclude-checks=positive_data_acceptance",  # "printable" is no pattern that its generator knows
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={EXAMPLES}",
            "--generation-database=none",
            "--no-color",
            "--suppress-health-check=all",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(90):
                output = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        links = len(served.links.commands)
    tried = re.search(r"(\d+) generated", output)
    print(f"schemathesis tried {tried[1] if tried else '?'} requests, {links} reached the links")
    assert process.returncode == 0, output[-6000:]
    assert links > 20
