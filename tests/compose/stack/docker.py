"""One stack of docker-compose.yml under a project name of its own, with tiny sites, beside whatever else runs here."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.servers import ROOT, free_port

HERE = Path(__file__).resolve().parent
SERVICES = (
    "postgres",
    "redis",
    "minio",
    "control-plane",
    "aggregator",
    "distiller",
    "queries",
    "agent-images",
    "agent-texts",
    "agent-pairs",
)
NEEDS_DOCKER = pytest.mark.skipif(
    not os.environ.get("FEDAFD_TEST_COMPOSE"), reason="needs a Docker engine: run `make test-compose`"
)
IMAGES = ("control-plane", "aggregator", "distiller", "agent", "minio")


class Stack:
    """Commands on the stack. Each raises AssertionError with the command's output if it fails."""

    def __init__(self, project: str, folder: Path, *overlays: str) -> None:
        """`overlays` are names of files of deploy/compose, in their order."""
        self.project = project
        self._overlays = overlays
        self.figures: dict[str, Any] = {}
        self._folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        files = ["docker-compose.yml"]
        if (ROOT / ".tools" / "bin" / "minio").exists():
            files.append("tests/compose/stack/prebuilt.yml")
        files += [f"deploy/compose/{overlay}.yml" for overlay in overlays]
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": ":".join(files),
            "COMPOSE_ANSI": "never",
            "COMPOSE_PROGRESS": "plain",
            "FEDAFD_SECRETS": str(folder / "secrets"),
            "FEDAFD_HTTP_PORT": str(port),
            "FEDAFD_VERSION": "compose-test",
            "FEDAFD_FEDERATION_FILE": str(HERE / "federation.yaml"),
            "FEDAFD_SITES": str(HERE / "sites"),
            "FEDAFD_PUBLIC_OPTIONS": '{"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5}',
        }
        if Path(self.environment.get("PIP_FIND_LINKS") or "/wheels").is_dir():
            del self.environment["PIP_FIND_LINKS"]  # a folder of this machine, which a build does not see
        run(["deploy/make-secrets.sh", str(folder / "secrets")])

    @property
    def admin_key(self) -> str:
        return (self._folder / "secrets" / "admin_key").read_text(encoding="utf-8").strip()

    def compose(self, *arguments: str, seconds: float = 300) -> str:
        """`docker compose ...`; its standard output."""
        return run(["docker", "compose", *arguments], environment=self.environment, seconds=seconds)

    def up(self, *services: str) -> None:
        """Start everything, or these services, and wait until it is healthy; a failure shows the logs."""
        try:
            self.compose("up", "--detach", "--wait", *services, seconds=1200)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def exec(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in a running container, whatever its exit code."""
        return subprocess.run(
            ["docker", "compose", "exec", "-T", service, *command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
            env=self.environment,
        )

    def containers(self) -> dict[str, dict[str, Any]]:
        """`docker inspect` of each container, by service; of one of them where a service has several."""
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in self._inspected()}

    def replicas(self, service: str) -> list[dict[str, Any]]:
        """`docker inspect` of each container of a service."""
        return self._inspected(service)

    def _inspected(self, *services: str) -> list[dict[str, Any]]:
        ids = self.compose("ps", "--all", "--quiet", *services).split()
        found: list[dict[str, Any]] = json.loads(run(["docker", "inspect", *ids])) if ids else []
        return found

    def health(self, service: str) -> str:
        """healthy, starting, unhealthy, or the container's state where it has no health check."""
        state = self.containers()[service]["State"]
        return str(state["Health"]["Status"] if "Health" in state else state["Status"])

    def make_certificates(self, name: str, more_names: str = "") -> Path:
        """Files of an authority of its own and what it signed, as deploy/compose/tls.yml wants them.

        `more_names` are FEDAFD_TLS_NAMES: names in the certificates, such as `IP:10.0.0.5`.
        """
        own = os.environ | {"FEDAFD_TLS_NAMES": more_names}
        run(["deploy/make-certificates.sh", str(self._folder / name / "tls")], environment=own)
        return self._folder / name / "tls"

    def serve_tls(self, grpc_address: str = "127.0.0.1", more_names: str = "") -> None:
        """Let deploy/compose/tls.yml publish free ports, gRPC's at `grpc_address`, with certificates of its own."""
        https = free_port()
        self.environment |= {
            "FEDAFD_TLS": str(self.make_certificates("ours", more_names)),
            "FEDAFD_HTTPS_ADDRESS": "127.0.0.1",
            "FEDAFD_HTTPS_PORT": str(https),
            "FEDAFD_GRPC_ADDRESS": grpc_address,
            "FEDAFD_GRPC_PORT": str(free_port()),
        }
        self.url = f"https://127.0.0.1:{https}"

    @property
    def tls_authority(self) -> Path:
        """That of the certificates which it serves."""
        return Path(self.environment["FEDAFD_TLS"]) / "tls_authority.pem"

    def wait_healthy(self, service: str, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while (state := self.health(service)) not in ("healthy", "running"):
            assert time.monotonic() < deadline, f"{service} is {state}:\n{self.logs(service)}"
            time.sleep(0.5)

    def logs(self, *services: str) -> str:
        return self.compose("logs", "--no-color", "--tail", "40", *services)

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks of this project that exist."""
        label = f"label=com.docker.compose.project={self.project}"
        lists = [["ps", "--all"], ["volume", "ls"], ["network", "ls"]]
        return [line for each in lists for line in run(["docker", *each, "--quiet", "--filter", label]).split()]

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note how many seconds the block took."""
        started = time.monotonic()
        yield
        self.figures[what] = round(time.monotonic() - started, 1)

    def report(self) -> None:
        """Write the figures, if there are any, into benchmark-results and show them."""
        if not self.figures:
            return
        path = ROOT / "benchmark-results" / f"{'-'.join(['compose', *self._overlays])}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")
        print(f"\n{path}:\n{json.dumps(self.figures, indent=2)}")


@contextmanager
def fresh_stack(folder: Path, *overlays: str) -> Iterator[Stack]:
    """A stack under a name that nobody has; it is removed at the end, whatever happened, and its figures written."""
    stack = Stack(f"fedafd-test-{uuid.uuid4().hex[:8]}", folder, *overlays)
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")
        stack.report()


def run(command: list[str], *, environment: dict[str, str] | None = None, seconds: float = 300) -> str:
    """Standard output of a command that must succeed, run at the top of the repository."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT, env=environment
    )
    output = f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{output}"
    return done.stdout
