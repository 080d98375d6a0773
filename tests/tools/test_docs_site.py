"""Links of the repository's pages as they are on the site."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
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
