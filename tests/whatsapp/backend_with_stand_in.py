"""The whole program with the real driver, whose workers believe in the stand-in:

    python -m tests.whatsapp.backend_with_stand_in NOISE_ROOT_HEX

Settings come from the environment as ever; ROUNDTRIP_WHATSAPP_PROXY and SSL_CERT_FILE lead to the stand-in, which
lives in the test's process.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from backend import settings as settings_
from backend.app import Backend, serve
from backend.links.neonize_driver import NeonizeDriver


def main() -> None:
    settings = settings_.load()
    command = (sys.executable, "-m", "tests.whatsapp.patched_worker", sys.argv[1])
    driver = NeonizeDriver(settings.whatsapp_proxy, worker_command=command, code_life=settings.pairing_timeout)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, lambda settings: Backend(settings, driver)))


if __name__ == "__main__":
    main()
