"""The report as one HTML file that needs no other: the Markdown's tables, and the plots inside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

__all__ = ["html_page"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 2rem 0; }
figure img { max-width: 100%; background: white; }
"""


def html_page(title: str, markdown: str, plots: Sequence[Path]) -> str:
    """The page. HTML in `markdown`, such as in a strategy's name, stays text."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    figures = "\n".join(_figure(path) for path in plots)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n{figures}\n</body>\n</html>\n"
    )


def _figure(path: Path) -> str:
    kind, _, scenario = path.stem.partition("-")
    words = "validation figures per round" if kind == "curves" else "test figures per strategy"
    caption = escape(f"{scenario}: {words}")
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    picture = f'<img alt="{caption}" src="data:image/png;base64,{content}">'
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"
