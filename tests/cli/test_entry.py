"""Ctrl-C ends the program `fedafd` in one line, also while it is still being loaded."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.servers import ROOT

INTERRUPTED = """
import signal, sys
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
sys.argv = ["fedafd", *{arguments!r}]
from {module} import {function}
{function}()
"""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fedafd.cli.main", ["--version"]),
        ("typer", ["--version"]),
        ("fedafd.cli.agent", ["--help"]),
        ("fedafd.cli.remote", ["--version"]),
        ("torch", ["predict", "no-such-folder", "text"]),
    ],
)
def test_ctrl_c_while_it_loads_prints_no_stack_trace(name: str, arguments: list[str]) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["fedafd"]
    module, function = declared.split(":")
    code = INTERRUPTED.format(name=name, arguments=arguments, module=module, function=function)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (130, "")


def test_before_the_guard_almost_nothing_is_loaded() -> None:
    code = "import sys; before = {*sys.modules}; import fedafd.cli.entry; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    own = {name for name in done.stdout.split() if name.startswith("fedafd")}
    assert own == {"fedafd", "fedafd.cli", "fedafd.cli.entry"}
    assert "importlib.metadata" not in done.stdout.split()


INTERRUPTED_WITHIN_A_STRING = """
import contextlib
from fedafd.cli import main as command_line

def app():
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")
    raise SystemExit(130)

command_line.app = app
command_line.main()
"""


def test_a_ctrl_c_that_was_answered_is_not_answered_again_at_the_exit(tmp_path: Path) -> None:
    """CPython would: if the interrupt met a dataclass being made, whose code is a string, the process died of it."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_WITHIN_A_STRING)
    ended = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "")


def test_health_loads_no_other_command_and_is_the_same_command() -> None:
    """Each container of a deployment runs it four times a minute."""
    code = (
        "import sys; sys.argv = ['fedafd', *sys.argv[1:]]\n"
        "from fedafd.cli.{module} import main\n"
        "try:\n    main()\n"
        "finally:\n    print(*[name for name in sys.modules if name.startswith('fedafd.cli.')], file=sys.stderr)"
    )
    answers = {}
    for module in ("entry", "main"):
        command = [sys.executable, "-c", code.format(module=module), "health"]
        for arguments in (["http://127.0.0.1:1/"], ["ftp://x"], [], ["--help"]):
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
            *told, loaded = done.stderr.splitlines()
            answers[module, *arguments] = done.returncode, done.stdout, told
            if module == "entry":
                wanted = {f"fedafd.cli.{name}" for name in ("entry", "health", "health_alone", "running")}
                assert set(loaded.split()) == wanted
                assert (
                    answers["entry", *arguments][0] == {"http": 1, "ftp:": 2, "": 2, "--he": 0}["".join(arguments)[:4]]
                )
    for key, answer in answers.items():
        assert answer == answers["main", *key[1:]]
