"""Runs commands of `fedafd`, each in a fork of one process that has loaded the program, which takes the longest.

Standard input is the list of commands as JSON, standard output what each said and how it ended. A command's folder is
a copy of the first argument.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import typer
import typer.rich_utils

from fedafd.cli.entry import main
from fedafd.cli.main import app

_SECONDS = 60
"""After these a command that has not ended is killed, which is no success."""


def forked(words: list[str], folder: Path) -> tuple[str, int]:
    """What the command said, and its exit status (negative: the signal that ended it). Returns in the parent alone."""
    said = folder.parent / f"{folder.name}.said"
    process = os.fork()
    if process == 0:
        os.chdir(folder)
        os.environ["HOME"] = str(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        os.dup2(1, 2)
        signal.alarm(_SECONDS)
        sys.argv = ["fedafd", *words]
        main()
        raise SystemExit(0)
    _, status = os.waitpid(process, 0)
    return said.read_text(encoding="utf-8"), os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    typer.main.get_command = functools.cache(typer.main.get_command)  # the tree of commands, which is the same in each
    typer.main.get_command(app)
    like = Path(sys.argv[1])
    results = []
    for number, command in enumerate(json.load(sys.stdin)):
        copy = like.parent / f"command-{number}"
        shutil.copytree(like, copy)
        results.append(forked(command, copy))
    json.dump(results, sys.stdout)
