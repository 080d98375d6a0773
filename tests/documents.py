"""The examples in the documents, for tests that execute them."""

from __future__ import annotations

import re

from tests.servers import ROOT


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
