from __future__ import annotations

import asyncio
from base64 import b64encode

import pytest

from roundtrip.api import health
from roundtrip.outbox.base import OutboxError
from tests.support.api import api

KEY = "the admin key"


async def passing() -> None:
    return None


async def test_ready_when_every_check_is_well() -> None:
    async with api(ready={"outbox": passing, "engine": passing}) as served:
        status, data, headers = await served.call("GET", "/readyz", admin=True)
    assert (status, data["ready"]) == (200, True)
    assert data["checks"]["outbox"] == {"ok": True, "detail": "ok"}
    assert headers["Cache-Control"] == "no-store"


async def test_not_ready_when_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_TIMEOUT", 0.1)

    async def down() -> None:
        raise OutboxError("outbox_unavailable", "The outbox cannot be written: no space left.")

    async def hangs() -> None:
        await asyncio.sleep(60)

    async def breaks() -> None:
        raise RuntimeError("+4915112345678")

    async def failing() -> str:
        return "Links are being restored."

    checks = {"outbox": down, "hangs": hangs, "breaks": breaks, "restore": failing, "engine": passing}
    async with api(ready=checks) as served:
        status, data, _ = await served.call("GET", "/readyz", admin=True)
    assert (status, data["ready"]) == (503, False)
    assert {name: check["ok"] for name, check in data["checks"].items()} == {
        "outbox": False,
        "hangs": False,
        "breaks": False,
        "restore": False,
        "engine": True,
    }
    assert data["checks"]["outbox"]["detail"] == "The outbox cannot be written: no space left."
    assert data["checks"]["restore"]["detail"] == "Links are being restored."
    assert "49151" not in str(data)


async def test_metrics_with_exemplars() -> None:
    async with api() as served:
        openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
        status, text, headers = await served.call("GET", "/metrics", admin=True, headers=openmetrics)
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert 'roundtrip_pretended_total 1.0 # {trace_id="abc"}' in text
    assert text.endswith("# EOF\n")


async def test_faults_over_http() -> None:
    async with api() as served:
        path = "/debug/faults/slow_outbox"
        status, data, _ = await served.call("GET", path, admin=True)
        assert (status, data["active"], data["parameter"], data["unit"]) == (200, False, None, "seconds")
        assert data["expect"]
        assert data["description"]
        status, data, _ = await served.call("PUT", path, admin=True, json={"parameter": 2})
        assert (status, data["active"], data["parameter"]) == (200, True, 2.0)
        assert served.faults.slow_outbox == 2.0
        status, data, _ = await served.call("PUT", path, admin=True)  # no body: the parameter that it has by itself
        assert (status, data["parameter"]) == (200, 0.5)
        status, data, _ = await served.call("DELETE", path, admin=True)
        assert (status, data["active"]) == (200, False)
        status, data, _ = await served.call("GET", "/debug/faults", admin=True)
        assert len(data["faults"]) == 9
        for method in ("GET", "PUT", "DELETE"):
            status, data, _ = await served.call(method, "/debug/faults/nothing", admin=True)
            assert (status, data["code"]) == (404, "fault_unknown")
        status, data, _ = await served.call("PUT", path, admin=True, json={"parameter": 1e9})
        assert (status, data["code"]) == (400, "fault_parameter_invalid")


async def test_the_page_may_switch_faults_only_where_everybody_is_believed() -> None:
    async with api() as served:
        status, data, _ = await served.call("PUT", "/api/faults/drop_acks")
        assert (status, data["active"]) == (200, True)
    async with api(trusted=False) as served:
        status, _, _ = await served.call("PUT", "/api/faults/drop_acks")
        assert status == 404
        status, _, _ = await served.call("PUT", "/debug/faults/drop_acks", admin=True)
        assert status == 200
    async with api(allow_faults=False) as served:
        status, data, _ = await served.call("PUT", "/debug/faults/drop_acks", admin=True)
        assert (status, data["code"]) == (403, "faults_forbidden")


async def test_beyond_loopback_the_admin_key_is_asked_for() -> None:
    basic = b64encode(f"anyone:{KEY}".encode()).decode()
    async with api(admin_key=KEY) as served:
        for path in ("/metrics", "/debug/sockets", "/debug/faults", "/debug/style.css", "/nothing"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic !"},
                {"Authorization": KEY},
            ):
                status, data, got = await served.call("GET", path, admin=True, headers=headers)
                assert (status, data["code"]) == (401, "unauthorized")
                assert got["WWW-Authenticate"].startswith("Basic")
        for authorization in (f"Bearer {KEY}", f"Basic {basic}"):
            status, _, _ = await served.call("GET", "/metrics", admin=True, headers={"Authorization": authorization})
            assert status == 200
        for path in ("/healthz", "/readyz"):
            status, _, _ = await served.call("GET", path, admin=True)
            assert status == 200
