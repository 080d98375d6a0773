"""MkDocs hook: the README and its like become pages, diagrams become pictures, and the site asks nobody else.

A page of the repository links to its neighbours as files. On the site a link to a page leads there; a link to any other
file of the repository, which the site does not hold, becomes its path. A diagram in Mermaid's language is drawn when
the site is built: the theme would have each reader's browser fetch a program for it. A page that would load anything
from another origin fails the build.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
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
_DIAGRAM = re.compile(r'<pre class="mermaid"><code>(.*?)</code></pre>', re.DOTALL)
_ADDRESS_IN_CSS = re.compile(r"url\(\s*[\"']?([^)\"']+)|@import\s+[\"']([^\"']+)")
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


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """The page with its diagrams drawn."""
    return with_pictures(content, page.title or "diagram")


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Fail where a page would load something from elsewhere."""
    from mkdocs.exceptions import PluginError

    found = sorted(set(foreign_requests(Path(config.site_dir))))
    if found:
        raise PluginError("the site would ask others: " + "; ".join(found))


def with_pictures(content: str, title: str) -> str:
    """`content`, an HTML page's, with an SVG of its own size in place of each diagram's source."""
    return _DIAGRAM.sub(lambda match: _picture(html.unescape(match[1]), title), content)


def _picture(source: str, title: str) -> str:
    from mermaid_render import convert

    picture = convert(source, format="svg", theme="neutral").decode()
    # A wide one is scrolled; the theme would shrink it, and a reader without the font would get one with serifs.
    picture = picture.replace('style="', 'style="max-width:none;', 1).replace("Noto Sans", "Noto Sans, sans-serif")
    label = html.escape(f"Diagram of {title}", quote=True)
    return f'<div role="img" aria-label="{label}" tabindex="0" style="overflow-x: auto">{picture}</div>'


def foreign_requests(site: Path) -> Iterator[str]:
    """What a browser would load from another origin, with the file that says so: a link to follow is none."""
    for path in sorted(site.rglob("*")):
        if path.suffix not in {".html", ".css"}:
            continue
        text = path.read_text(encoding="utf-8")
        addresses = _loaded_by_html(text) if path.suffix == ".html" else _loaded_by_css(text)
        for address in addresses:
            if re.match(r"(?:[a-z][a-z0-9+.-]*:)?//", address, re.IGNORECASE):
                yield f"{path.relative_to(site)} loads {address}"


def _loaded_by_css(text: str) -> Iterator[str]:
    for match in _ADDRESS_IN_CSS.finditer(text):
        yield match[1] or match[2]


def _loaded_by_html(text: str) -> Iterator[str]:
    reader = _Loads()
    reader.feed(text)
    yield from reader.addresses


class _Loads(HTMLParser):
    """What a browser fetches of itself: scripts, styles, pictures, frames, and what the theme fetches by class."""

    FOLLOWED = frozenset({"canonical", "alternate", "next", "prev", "author", "license"})
    """Relations of a <link> that a browser does not load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag's addresses."""
        given = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        if "mermaid" in given.get("class", "").split():
            self.addresses.append("https://unpkg.com (the theme's program for diagrams)")
        self.addresses += [given[name] for name in ("src", "poster", "data") if tag != "a" and name in given]
        for part in given.get("srcset", "").split(","):
            self.addresses += part.split()[:1]
        if tag == "link" and given.get("rel", "") not in self.FOLLOWED:
            self.addresses.append(given.get("href", ""))
        if tag in {"image", "use"}:
            self.addresses.append(given.get("href", given.get("xlink:href", "")))
        self.addresses += _loaded_by_css(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        """What a <style> loads."""
        if self._in_style:
            self.addresses += _loaded_by_css(data)
            self._in_style = False


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
