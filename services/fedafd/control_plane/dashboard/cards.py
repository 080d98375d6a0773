"""Model cards as parts of a page: Markdown that whoever trains a model writes, and that can only be read."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markupsafe import Markup

__all__ = ["LONGEST_CARD", "card_html"]

LONGEST_CARD = 256 * 1024
_FRONT_MATTER = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)
_LOWEST = 6
# Neither HTML nor pictures from elsewhere: a page loads nothing from another host.
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def card_html(text: str) -> Markup:
    """A card without its front matter; its headings begin at the second rank, because the page has the first."""
    tokens = _MARKDOWN.parse(_FRONT_MATTER.sub("", text, count=1))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, _LOWEST)}"
    # markdown-it escapes what it does not know: this is the one place that says so.
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))  # noqa: S704
