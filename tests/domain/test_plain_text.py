"""Text is printed as text: nothing in it moves the cursor, hides a part, or turns the direction of writing around."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedafd.domain.plain_text import plain_text


@given(st.text())
def test_no_control_is_left_whatever_it_was(text: str) -> None:
    kept = plain_text(text)
    assert not any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in kept)
    assert plain_text(kept) == kept


@pytest.mark.parametrize("text", ["Ward 3: café, 東京, שלום, 👩‍⚕️", "a  b", "[red]"])
def test_what_people_write_stays(text: str) -> None:
    assert plain_text(text) == text


@pytest.mark.parametrize("mark", ["\x1b[2J", "\x9b31m", "\r\n", "\u202e", "\u2066", "\u2028", "\x00", "\x7f"])
def test_what_a_terminal_obeys_goes(mark: str) -> None:
    assert mark[0] not in plain_text(f"a{mark}b")
