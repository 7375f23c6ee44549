"""The hook of mkdocs: documents outside `docs/` are pages too, and links to sources become their names.

On GitHub and in an editor the documents link to files of the repository; a site has the documents only.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parent.parent

EXTRA: Final = {"ARCHITECTURE.md": "architecture.md", "SECURITY.md": "security.md"} | {
    f"dashboards/runbooks/{path.name}": f"runbooks/{path.name}"
    for path in sorted((ROOT / "dashboards" / "runbooks").glob("*.md"))
}
"""Pages from elsewhere in the repository, by their address in the site."""

_LINK: Final = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, address in EXTRA.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, address, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make each relative link lead to a page of the site, or else be plain text."""
    address = page.file.src_uri
    by_address = {there: source for source, there in EXTRA.items()}
    source = by_address.get(address, f"docs/{address}")

    def resolve(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            return match[0]  # mkdocs reports it
        there = EXTRA.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if there is None or (ROOT / path).is_dir():
            return match["text"]
        relative = posixpath.relpath(there, posixpath.dirname(address) or ".")
        return f"[{match['text']}]({relative}{match['anchor'] or ''})"

    return _LINK.sub(resolve, markdown)


def on_startup(command: str, dirty: bool) -> None:
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # an advertisement, on every build
