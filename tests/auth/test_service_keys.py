from __future__ import annotations

import hashlib

import pytest

from roundtrip.auth.service_keys import Scope, ServiceKeys

DIGEST = hashlib.sha256(b"the key").hexdigest()


def test_a_key_is_found_by_itself_alone() -> None:
    keys = ServiceKeys.parse(f"crm:links.read+events.read:{DIGEST}, ops:links.write:{'0' * 64}")
    found = keys.find("the key")
    assert found is not None
    assert (found.name, found.scopes) == ("crm", frozenset({Scope.LINKS_READ, Scope.EVENTS_READ}))
    for wrong in ("", "the key ", DIGEST, "\udcff"):
        assert keys.find(wrong) is None


@pytest.mark.parametrize(
    "text",
    [
        "the key",
        f"crm:{DIGEST}",
        f"crm::{DIGEST}",
        f"crm:everything:{DIGEST}",
        "crm:links.read:the key",
        f"crm:links.read:{DIGEST.upper()}",
        f"CRM:links.read:{DIGEST}",
        f"crm:links.read:{DIGEST},crm:links.read:{'0' * 64}",
    ],
)
def test_a_wrong_setting_is_said_without_the_key(text: str) -> None:
    with pytest.raises(ValueError, match="service key") as caught:
        ServiceKeys.parse(text)
    assert "the key" not in str(caught.value)
    assert DIGEST not in str(caught.value)
