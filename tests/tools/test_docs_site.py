"""The documentation as a site: links of the repository's pages, diagrams as pictures, nothing from elsewhere."""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from tests.documents import blocks
from tests.servers import ROOT


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "tools" / "docs_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "on_site"),
    [
        ("index.md", "[a](docs/data.md#folders)", "[a](data.md#folders)"),
        ("index.md", "![p](docs/pictures/x.png)", "![p](pictures/x.png)"),
        ("data.md", "[a](../README.md)", "[a](index.md)"),
        ("adr/0002-learning-layer.md", "[a](../../CONTRIBUTING.md)", "[a](../contributing.md)"),
        ("data.md", "[a](site.md) and [b](#there)", "[a](site.md) and [b](#there)"),
        ("runbook.md", "[a](../deploy/alerts.yml)", "a (`deploy/alerts.yml` in the repository)"),
        ("data.md", "[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("index.md", "```\n[a](docs/data.md)\n```", "```\n[a](docs/data.md)\n```"),
    ],
)
def test_a_link_leads_to_a_page_or_says_where_the_file_is(hook: ModuleType, page: str, link: str, on_site: str) -> None:
    assert hook.with_site_links(link, page) == on_site


def test_pages_from_outside_of_docs_exist(hook: ModuleType) -> None:
    assert [source for source in hook.PAGES if not (ROOT / source).is_file()] == []


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/a.css">',
        "<style>@import 'https://fonts.example/a.css';</style>",
        '<p style="background: url(https://cdn.example/x.png)">',
        '<img srcset="a.png 1x, HTTPS://cdn.example/b.png 2x">',
        '<svg><image href="https://cdn.example/x.png"/></svg>',
        '<pre class="mermaid"><code>graph</code></pre>',
    ],
)
def test_a_page_that_loads_from_elsewhere_is_found(hook: ModuleType, tmp_path: Path, page: str) -> None:
    (tmp_path / "page.html").write_text(page)
    assert len(list(hook.foreign_requests(tmp_path))) == 1


def test_what_is_here_and_what_a_reader_may_follow_is_not_a_request(hook: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<link rel="canonical" href="https://docs.example/"><a href="https://arxiv.org/abs/1">paper</a>'
        '<script src="assets/x.js"></script><img src="data:image/png;base64,AA"><svg xmlns="http://www.w3.org/2000/svg"/>'
    )
    (tmp_path / "style.css").write_text("a { background: url('x.svg') }")
    assert list(hook.foreign_requests(tmp_path)) == []


def test_the_diagrams_of_the_pages_become_pictures_that_hold_their_words(hook: ModuleType) -> None:
    pytest.importorskip("mermaid_render")
    sources = [source for page in (ROOT / "docs").rglob("*.md") for source in blocks(str(page), "mermaid")]
    assert sources
    for source in sources:
        shown = hook.with_pictures(f'<pre class="mermaid"><code>{html.escape(source)}</code></pre>', "a <page>")
        assert "mermaid" not in shown
        assert shown.startswith('<div role="img" aria-label="Diagram of a &lt;page&gt;"')
        for word in re.findall(r"(?<= as )\w+|(?<=--> )\w+", source):
            assert word in shown
