"""The reference pages of commands, gRPC and the Python API: each thing is on one, with a meaning."""

from __future__ import annotations

import re

import pytest
import typer

from fedafd.cli.main import app
from fedafd.proto.v1 import aggregator_pb2, distillation_pb2
from tools import write_api_pages


def test_each_command_is_on_one_page_with_its_options() -> None:
    pages = write_api_pages.command_pages()
    text = "\n".join(pages.values())
    named = re.findall(r"^## `(fedafd [^`]*)`$", text, re.MULTILINE)
    assert len(named) == len(set(named))
    assert {"fedafd agent run", "fedafd round start", "fedafd migrate", "fedafd migrate current"} <= set(named)
    run = text.partition("## `fedafd agent run`")[2].partition("\n## ")[0]
    assert "| `--config` | The site's agent.yaml. (default `agent.yaml`; variable `FEDAFD_AGENT_CONFIG`) |" in run


def test_a_command_without_a_page_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = typer.main.get_command(app)
    monkeypatch.setitem(tree.commands, "fly", tree.commands["status"])  # type: ignore[attr-defined]
    monkeypatch.setattr(typer.main, "get_command", lambda _: tree)
    with pytest.raises(ValueError, match=r"place these commands: \['fly'\]"):
        write_api_pages.command_pages()


def test_an_option_without_a_help_text_fails_also_one_that_is_needed_or_has_a_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = typer.main.get_command(app)
    monkeypatch.setattr(typer.main, "get_command", lambda _: tree)
    for parameter in tree.commands["health"].params:  # type: ignore[attr-defined]
        monkeypatch.setattr(parameter, "help", None)
    with pytest.raises(ValueError, match=r"cli-server.md: \| `URL` \|  \|, cli-server.md: \| `--timeout` \|  \|"):
        write_api_pages.pages()


def test_each_call_and_message_of_grpc_is_told() -> None:
    pages = write_api_pages.grpc_pages()
    for module in (aggregator_pb2, distillation_pb2):
        file = module.DESCRIPTOR
        for service in file.services_by_name.values():
            assert all(f"| `{call.name}` |" in pages["grpc.md"] for call in service.methods)
        for message in file.message_types_by_name.values():
            assert f"| `{message.name}` | |" in pages["grpc-messages.md"]


def test_the_api_shows_arguments_and_hides_what_is_private() -> None:
    page = write_api_pages.python_page()
    assert "| `GlobalModel.from_pretrained(folder, *, device=..., intensity_range=...)` |" in page
    assert "`PersonalizedModel.branches` |" in page
    assert not re.search(r"`(?:\w+\.)?_\w", page)
    assert page.count("`PersonalizedModel.predict(") == 1


def test_what_says_nothing_of_itself_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_api_pages, "python_page", lambda: "| name | meaning |\n| `silent()` |  |\n")
    with pytest.raises(ValueError, match=r"python.md: \| `silent\(\)`"):
        write_api_pages.pages()
