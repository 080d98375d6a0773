"""MkDocs hook: the README and its like become pages, and links that leave the pages say where the file is.

A page of the repository links to its neighbours as files. On the site a link to a page leads there; a link to any other
file of the repository, which the site does not hold, becomes its path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
    "helm/fedafd/README.md": "chart-fedafd.md",
    "helm/fedafd-agent/README.md": "chart-fedafd-agent.md",
}
"""Files of the repository outside of docs/, and the pages that they become."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that lie outside of docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page with its links as they are on the site."""
    return with_site_links(markdown, page.file.src_uri)


def with_site_links(markdown: str, page: str) -> str:
    """`markdown` of the site's `page`; code blocks stay as they are."""
    source = next((source for source, name in PAGES.items() if name == page), f"docs/{page}")
    parts = _FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda m: _link(m, source, page), part) for part in parts
    )


def _link(match: re.Match[str], source: str, page: str) -> str:
    picture, text, target = match.groups()
    path, hash_mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return match[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    there = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
    if there is None:
        return f"{text} (`{file}` in the repository)"
    return f"{picture}[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{hash_mark}{anchor})"
