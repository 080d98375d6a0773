"""The command line in this process, which has loaded its libraries, as the installed program calls it."""

from __future__ import annotations

import sys

import pytest

from fedafd.cli.main import main

__all__ = ["run_fedafd"]


def run_fedafd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit code, output and error output of `fedafd` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["fedafd", *arguments])
    capsys.readouterr()  # what this process logged itself, if a test before has set its logging up
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), *capsys.readouterr()
