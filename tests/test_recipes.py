"""CONTRIBUTING's recipes, followed in a copy of the tree: what is missing is told, and what was done as written passes.

Other recipes have tests of their own: encoders, data sets, tasks and strategies in `tests/test_extending.py` and
`tests/learning`, settings in `tests/domain/test_settings.py`, errors in `tests/domain/test_error_registry.py`, stored
things in `tests/artifacts/test_keys.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import ROOT

from fedafd.persistence.migrate import head_revision

VERSIONS = "services/fedafd/persistence/migrations/versions"
SAME_SCHEMA = "tests/persistence/test_migrate.py::test_models_and_migrations_do_not_differ"
REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = "HEAD"

_STATES = "state IN ('invited', 'training', 'delivered', 'dropped', 'rejected'{more})"


def upgrade() -> None:
    op.add_column("clients", sa.Column("ward", sa.Integer(), nullable=True))
    _restrict(", 'paused'")


def downgrade() -> None:
    _restrict("")
    with op.batch_alter_table("clients") as batch:
        batch.drop_column("ward")


def _restrict(more: str) -> None:
    with op.batch_alter_table("participations") as batch:
        batch.drop_constraint(op.f("ck_participations_state"), type_="check")
        batch.create_check_constraint(op.f("ck_participations_state"), _STATES.format(more=more))
"""

USE = """  option (use) = {
    why: "to be polite"
    readers: "nobody"
    kept: "nothing"
  };

  // Unix seconds.
"""


class Tree:
    """A copy of the repository that a recipe is followed in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("services", "protos", "tools", "docs", "tests"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "pictures"))
        shutil.copy(ROOT / "pyproject.toml", root)

    def change(self, file: str, old: str, new: str) -> None:
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file}: {old}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def write(self, file: str, text: str) -> None:
        (self.root / file).write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of Python in the copy."""
        environment = os.environ | {"PYTHONPATH": str(self.root / "services"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def test(self, *arguments: str) -> tuple[int, str]:
        return self.run("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *arguments)

    def fails(self, found: tuple[int, str], words: str) -> None:
        assert found[0] == 1 and words in found[1], found[1][-3000:]

    def passes(self, found: tuple[int, str]) -> None:
        assert found[0] == 0, found[1][-3000:]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


def test_a_state_and_a_migration(tree: Tree) -> None:
    states, members = "services/fedafd/domain/states.py", "services/fedafd/persistence/models/members.py"
    tree.change(states, '    REJECTED = "rejected"\n', '    REJECTED = "rejected"\n    PAUSED = "paused"\n')
    tree.change(states, "frozenset({_P.DELIVERED, _P.DROPPED", "frozenset({_P.PAUSED, _P.DELIVERED, _P.DROPPED")
    last = "    _P.REJECTED: frozenset(),\n"
    tree.change(states, last, f"{last}    _P.PAUSED: frozenset(),\n")
    drawing = ("-m", "fedafd.domain.diagram", "docs/architecture.md")
    tree.fails(tree.run(*drawing, "--check"), "run: make diagrams")
    tree.passes(tree.run(*drawing))
    assert "training --> paused" in (tree.root / "docs" / "architecture.md").read_text(encoding="utf-8")

    tree.fails(tree.test(SAME_SCHEMA, "-k", "sqlite"), "Differing items:\nE         {'participations'")
    column = "    max_clients: Mapped[int | None]\n"
    tree.change(members, column, f"{column}    ward: Mapped[int | None]\n")
    tree.write(f"{VERSIONS}/r9000_recipe.py", REVISION.replace("HEAD", head_revision()))
    tree.passes(tree.test(SAME_SCHEMA, "-k", "sqlite"))


def test_an_rpc(tree: Tree) -> None:
    proto, servicer = "protos/fedafd/v1/aggregator.proto", "services/fedafd/aggregator/agent_service.py"
    last = "  rpc EndSession(EndSessionRequest) returns (EndSessionResponse);\n"
    tree.change(proto, last, f"{last}  // Asks nothing.\n  rpc Greet(GreetRequest) returns (GreetResponse);\n")
    message = "\n// The session is ended.\n"
    request = "\n// Says when.\nmessage GreetRequest {\n  // Unix seconds.\n  int64 at = 1;\n}\n"
    added = f"{request}\n// Answers nothing.\nmessage GreetResponse {{}}\n"
    tree.change(proto, message, added + message)
    tree.fails(tree.run("tools/generate_protos.py", "--check"), "run: make proto")
    tree.passes(tree.run("tools/generate_protos.py"))
    page = ("tools/write_reference.py",)
    tree.fails(
        tree.run(*page, "--check"),
        "no words on what leaves, or why, in protos/fedafd/v1: GreetRequest, GreetRequest.at",
    )
    tree.change(
        proto, "  // Unix seconds.\n  int64 at = 1;\n", f'{USE}  int64 at = 1 [(leaves) = {{holds: "when it was"}}];\n'
    )
    tree.passes(tree.run("tools/generate_protos.py"))
    tree.fails(tree.run(*page, "--check"), "in protos/fedafd/v1: GreetRequest.at")
    tree.change(proto, '"when it was"', '"when it was" when: "once a day"')
    tree.passes(tree.run("tools/generate_protos.py"))
    tree.passes(tree.run(*page))
    assert "| `GreetRequest.at` | when it was | once a day |" in (tree.root / "docs/privacy.md").read_text(
        encoding="utf-8"
    )
    examples = ("tests/aggregator/test_audited_calls.py", "-k", "Greet or every_call")
    tree.fails(tree.test(*examples), "test_an_example_of_every_call_stands_here")
    tree.change(
        servicer,
        "    def _seen(self",
        "    async def Greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse:\n"
        "        await calling_client(self._context, call)\n"
        "        return pb.GreetResponse()\n\n"
        "    def _seen(self",
    )
    example = '    "EndSession": (lambda told: pb.EndSessionRequest(), None),\n'
    tree.change(examples[0], example, f'{example}    "Greet": (lambda told: pb.GreetRequest(), None),\n')
    tree.passes(tree.test(*examples))
    tree.passes(tree.run("tools/write_api_pages.py"))
    assert "| `Greet` | `GreetRequest` |" in (tree.root / "docs/reference/grpc.md").read_text(encoding="utf-8")


def test_a_command(tree: Tree) -> None:
    command = '''"""`fedafd greet`."""

from typing import Annotated

import typer

__all__ = ["greet"]


def greet(name: Annotated[str, typer.Option({about})]) -> None:
    """Say who is there."""
    typer.echo(name)
'''
    main, pages = "services/fedafd/cli/main.py", ("tools/write_api_pages.py",)
    tree.write("services/fedafd/cli/greet.py", command.format(about=""))
    tree.change(
        main, "from fedafd.cli.health import", "from fedafd.cli.greet import greet\nfrom fedafd.cli.health import"
    )
    registered = "app.command(rich_help_panel=SERVER)(health)\n"
    tree.change(main, registered, f"{registered}app.command(rich_help_panel=SERVER)(greet)\n")
    tree.fails(tree.run(*pages), "place these commands: ['greet']")
    tree.change(pages[0], '"doctor", "health"', '"doctor", "greet", "health"')
    tree.fails(tree.run(*pages), "cli-server.md: | `--name`")
    tree.write("services/fedafd/cli/greet.py", command.format(about='help="Who."'))
    tree.passes(tree.run(*pages))
    assert "## `fedafd greet`" in (tree.root / "docs/reference/cli-server.md").read_text(encoding="utf-8")
    code, said = tree.run("-m", "fedafd.cli.entry", "greet", "--name", "north")
    assert (code, said) == (0, "north\n")
