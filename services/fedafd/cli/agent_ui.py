"""`fedafd agent ui`: the site's page, in a browser on this machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from fedafd.cli.agent_options import AgentYaml, StateDir
from fedafd.domain.errors import ConfigurationError

__all__ = ["agent_ui"]

_NEEDED = {"starlette": "starlette", "jinja2": "jinja2", "python_multipart": "python-multipart", "uvicorn": "uvicorn"}


def agent_ui(
    config: AgentYaml = Path("agent.yaml"),
    state_dir: StateDir = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where it listens; 0 takes any that is free.")] = 8765,
    host: Annotated[str, typer.Option(help="127.0.0.1 or ::1; other machines never reach it.")] = "127.0.0.1",
) -> None:
    """Show your data, rounds, what left and your model on a page for this machine alone.

    It only reads, whether an agent runs or not; Ctrl-C ends it.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"fedafd agent ui needs {', '.join(missing)}: pip install 'fedafd[ui]'")
    from fedafd.agent.main import read_site
    from fedafd.agent.ui.server import serve

    site = read_site(config)
    if state_dir is not None:
        site = site.model_copy(update={"state_dir": state_dir})
    serve(site, host=host, port=port, ready=lambda address: typer.echo(f"open {address}\nCtrl-C ends it."))
