"""Every error code stands once in the registry, and docs/errors.md has them all."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import fedafd
from fedafd.domain.errors import ERROR_STATUS, FedafdError
from fedafd.domain.process_errors import PROCESS_ERRORS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
REGISTRY = (*ERROR_STATUS, *PROCESS_ERRORS)


def _below(kind: type[FedafdError]) -> Iterator[type[FedafdError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def test_each_code_stands_once_and_reads_like_the_others() -> None:
    codes = [kind.code for kind in REGISTRY]
    assert sorted(codes) == sorted(set(codes))
    assert [code for code in codes if not re.fullmatch(r"[a-z]+(-[a-z]+)*", code)] == []


def test_no_module_declares_a_code_of_its_own() -> None:
    for module in pkgutil.walk_packages(fedafd.__path__, "fedafd."):
        if not re.search(r"_pb2|__main__|[.]migrations[.]", module.name):
            importlib.import_module(module.name)
    own = {kind for kind in _below(FedafdError) if "code" in vars(kind) and kind.__module__.startswith("fedafd.")}
    assert {f"{kind.__module__}.{kind.__name__}" for kind in own - set(REGISTRY)} == set()


def test_the_page_has_every_code() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(kind.code for kind in REGISTRY)
