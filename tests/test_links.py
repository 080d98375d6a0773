"""Links between the documents lead to a page and a heading that exist, on a code host and in the built site."""

from __future__ import annotations

import posixpath
import re
from functools import cache
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from tests.servers import ROOT
from tests.test_documents import PAGES

_EXTERNAL = re.compile(r"^[a-z]+:")


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_to_a_page_and_a_heading(page: str) -> None:
    problems = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        if not (ROOT / target).exists():
            problems.append(f"{link}: no file {target}")
        elif anchor and target.endswith(".md") and not all(anchor in known for known in anchors(target)):
            problems.append(f"{link}: no such heading in {target}")
    assert not problems, "\n".join(problems)


def test_a_heading_s_anchor_is_what_a_code_host_and_the_site_both_make() -> None:
    code_host, site = anchors("docs/architecture.md")
    assert "how-faults-are-handled" in code_host & site
    assert "what-is-away-is-waited-for" not in code_host | site
    assert (slug_of_a_code_host("Costs: `a_b`, then - B"), slug_of_the_site("Costs: a_b, then - B")) == (
        "costs-a_b-then---b",
        "costs-a_b-then-b",
    )


def links(page: str) -> list[str]:
    """The targets of a page's links that stay within the repository."""
    return [
        unquote(str(child.attrs["href"]))
        for token in tokens(page)
        for child in token.children or ()
        if child.type == "link_open" and not _EXTERNAL.match(str(child.attrs["href"]))
    ]


@cache
def anchors(page: str) -> tuple[frozenset[str], frozenset[str]]:
    """The anchors of a page's headings, as a code host makes them, and as the site does."""
    sequence = tokens(page)
    titles = [
        "".join(child.content for child in sequence[at + 1].children or ())
        for at, token in enumerate(sequence)
        if token.type == "heading_open"
    ]
    return frozenset(map(slug_of_a_code_host, titles)), frozenset(map(slug_of_the_site, titles))


@cache
def tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text())


def slug_of_a_code_host(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def slug_of_the_site(title: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
