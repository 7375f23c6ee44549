"""Where the npm libraries of the pages are: in `node_modules` of a checkout, or inside the package that was installed.

A module that serves libraries has them in a literal table named `VENDOR`: served name → path within `node_modules`.
`setup.py` reads these tables and puts the files into the package, so that what is installed needs no Node.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parents[1]
NODE_MODULES: Final = _PACKAGE.parents[1] / "node_modules"
PACKAGED: Final = _PACKAGE / "web" / "vendor"

MISSING: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Roundtrip: the page's libraries are missing</title>
<h1>The page's libraries are missing</h1>
<p>The backend runs, but this page needs JavaScript libraries that are not installed:</p>
<p><code>{names}</code></p>
<p>In a checkout, install Node.js with npm and run <code>make run</code> again (or <code>npm ci</code>). Otherwise
install the published package, which contains them. The API, Socket.IO and the admin listener work without it.</p>
</html>
"""
"""What is served instead of a page that would wait for ever."""


def library(path: str, node_modules: Path = NODE_MODULES) -> Path:
    """The file of a library, by its path within `node_modules`; it may be missing."""
    return (node_modules if node_modules.is_dir() else PACKAGED) / path
