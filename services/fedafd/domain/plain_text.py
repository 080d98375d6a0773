"""Text without what a terminal obeys: control characters, and those that turn the direction of writing around.

Used where text enters, so that nothing else is stored, and where text is printed, because what is stored may be older.
"""

from __future__ import annotations

import re

__all__ = ["OBEYED", "plain_text"]

OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
"""C0 and C1 controls with line ends and tabs, line separators, and the marks of https://unicode.org/reports/tr9."""


def plain_text(text: str) -> str:
    """`text` on one line, with a space in place of what a terminal obeys; none at either end."""
    return OBEYED.sub(" ", text).strip()
