"""Flower as its makers recommend to deploy it: a SuperLink, a SuperNode for each client, and an app that they run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fedafd.local.supervisor import free_port

__all__ = ["superlink_rounds"]

_QUIET: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_START_SECONDS = 60.0
_END_SECONDS = 20.0
_APP = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "idle"
version = "1.0.0"
description = "Rounds that train nothing."
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "idle.superlink_app:server"
clientapp = "idle.superlink_app:client"

[tool.flwr.app.config]
clients = 1
rounds = 1
bytes-up = 1
bytes-down = 1
path = ""
"""


def superlink_rounds(environment: Path, values: dict[str, int], timeout_seconds: float) -> list[float]:
    """Seconds of each round. `environment`: one that has `flwr`; `values`: of the app's configuration.

    Raises RuntimeError and TimeoutError.
    """
    with tempfile.TemporaryDirectory(prefix="superlink-") as name, ExitStack() as stack:
        folder, programs, port = Path(name), environment / "bin", free_port()
        variables = os.environ | {"FLWR_HOME": name, "FLWR_TELEMETRY_ENABLED": "0"}
        variables["PATH"] = f"{programs}{os.pathsep}{variables['PATH']}"
        address = f"127.0.0.1:{port}"
        link = [programs / "flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
        stack.enter_context(_process([*link, "--port", str(port)], variables))
        _wait_until_open(f"http://{address}/")
        for _ in range(values["clients"]):
            node = [programs / "flower-supernode", "--insecure", "--superlink", address, "--port", str(free_port())]
            stack.enter_context(_process(node, variables))
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "local"\n[superlink.local]\naddress = "{address}"\ninsecure = true\n'
        )
        seconds = folder / "seconds.json"
        _submit(programs / "flwr", folder, values, seconds, variables)
        return _read_when_there(seconds, timeout_seconds)


@contextmanager
def _process(command: list[Any], variables: dict[str, str]) -> Iterator[None]:
    """A process with all that it starts, ended at the end."""
    process = subprocess.Popen(command, env=variables, start_new_session=True, **_QUIET)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(timeout=_END_SECONDS)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _wait_until_open(url: str) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def _submit(flwr: Path, folder: Path, values: dict[str, int], seconds: Path, variables: dict[str, str]) -> None:
    package = folder / "app" / "idle"
    package.mkdir(parents=True)
    (folder / "app" / "pyproject.toml").write_text(_APP)
    (package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("superlink_app.py"), package)
    chosen = " ".join(f"{name}={value}" for name, value in values.items()) + f" path='{seconds}'"
    command = [str(flwr), "run", str(folder / "app"), "local", "--run-config", chosen]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"flwr run ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")


def _read_when_there(path: Path, timeout_seconds: float) -> list[float]:
    until = time.monotonic() + timeout_seconds
    while time.monotonic() < until:
        if path.exists() and (text := path.read_text()):
            seconds: list[float] = json.loads(text)
            return seconds
        time.sleep(0.2)
    raise TimeoutError(f"Flower's SuperLink did not end its rounds in {timeout_seconds:.0f} s")
