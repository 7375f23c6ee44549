"""The fault switches over HTTP: on the admin listener, and for the page on loopback."""

from __future__ import annotations

import msgspec

from roundtrip.api.routes import Call, Route
from roundtrip.api.schemas import FaultParameter
from roundtrip.faults import FaultList, Faults, FaultView


class FaultRoutes:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def list(self, _call: Call) -> msgspec.Struct:
        return self._faults.views()

    async def read(self, call: Call) -> msgspec.Struct:
        return self._faults.view(call.path("name"))

    async def on(self, call: Call) -> msgspec.Struct:
        return self._faults.switch_on(call.path("name"), call.says(FaultParameter).parameter)

    async def off(self, call: Call) -> msgspec.Struct:
        return self._faults.switch_off(call.path("name"))

    def routes(self, prefix: str) -> tuple[Route, ...]:
        one = f"{prefix}/{{name}}"
        problems = ("fault_unknown", "faults_forbidden")
        return (
            Route("GET", prefix, "listFaults", "Every fault switch, with what one should see", self.list, FaultList),
            Route("GET", one, "readFault", "One fault switch", self.read, FaultView, problems=("fault_unknown",)),
            Route(
                "PUT",
                one,
                "switchFaultOn",
                "Switch a fault on, or change its parameter",
                self.on,
                FaultView,
                body=FaultParameter,
                problems=(*problems, "fault_parameter_invalid"),
            ),
            Route("DELETE", one, "switchFaultOff", "Switch a fault off", self.off, FaultView, problems=problems),
        )
