"""The whole program with the real driver, whose workers believe in the stand-in:

    python -m tests.whatsapp.backend_with_stand_in NOISE_ROOT_HEX CA_FILE

Settings come from the environment as ever; ROUNDTRIP_WHATSAPP_PROXY leads to the stand-in, which lives in the test's
process (`StandIn.backend_command`).
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from roundtrip.app import Backend
from roundtrip.cli import serve
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.environment import load
from tests.whatsapp.stand_in import patched_worker


def main() -> None:
    settings = load()
    noise_root, ca_file = sys.argv[1:]
    driver = NeonizeDriver.of(settings, patched_worker(noise_root), {**os.environ, "SSL_CERT_FILE": ca_file})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, lambda settings: Backend(settings, driver)))


if __name__ == "__main__":
    main()
