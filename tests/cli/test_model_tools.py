"""What commands on models share: a bar on terminals alone, results whole or not at all, text in one line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedafd.cli.model_tools import one_line, pictures_in, progress, results_to
from fedafd.domain.errors import InvalidRequestError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "prints", "shown"),
    [(Terminal(), False, True), (io.StringIO(), False, False), (Terminal(), True, False)],
    ids=["terminal", "pipe", "results on the same terminal"],
)
def test_a_bar_is_shown_on_a_terminal_that_no_results_go_to(
    stream: io.StringIO, prints: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", Terminal())
    with progress("reading", 3, prints=prints) as advance:
        advance(3)
    assert ("3/3" in stream.getvalue()) is shown


def test_results_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"

    def write(*, force: bool, fails: bool) -> None:
        with results_to(target, force=force) as file:
            file.write("line\n")
            if fails:
                raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        write(force=False, fails=True)
    assert list(tmp_path.iterdir()) == []
    write(force=False, fails=False)
    with pytest.raises(InvalidRequestError, match="is there already"):
        write(force=False, fails=False)
    with pytest.raises(RuntimeError):
        write(force=True, fails=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["line\n"]


@given(text=st.text(alphabet=st.characters()))
def test_any_text_is_one_printable_line(text: str) -> None:
    assert one_line(text).isprintable()
    if text.isprintable():
        assert one_line(text) == text


def test_pictures_are_found_by_their_endings_in_any_case(tmp_path: Path) -> None:
    for name in ("a.JPG", "sub/b.jfif", "sub/.hidden.png", "__MACOSX/c.png", ".git/d.png", "notes.txt", "e.PPM"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in pictures_in(tmp_path)] == ["a.JPG", "e.PPM", "sub/b.jfif"]
