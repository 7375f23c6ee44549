"""The software bill of materials, CycloneDX 1.6, from the lock files: `python -m tools.sbom` writes docs/sbom.cdx.json.

What the tests and tools use is not in the program, and not in here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from tools import locks

PATH: Final = locks.ROOT / "docs" / "sbom.cdx.json"


def bill() -> dict[str, Any]:
    """The document: the same for the same locks."""
    parts = sorted([*locks.python(), *(part for part in locks.npm() if not part.optional)])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "bom-ref": "roundtrip",
                "type": "application",
                "name": "roundtrip",
                "version": "0.1.0",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [
            {"bom-ref": part.purl, "type": "library", "name": part.name, "version": part.version, "purl": part.purl}
            for part in parts
        ],
        "dependencies": [{"ref": "roundtrip", "dependsOn": [part.purl for part in parts]}],
    }


def text() -> bytes:
    return msgspec.json.format(msgspec.json.encode(bill()), indent=1) + b"\n"


def main(path: Path = PATH) -> int:
    path.write_bytes(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
