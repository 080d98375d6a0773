"""The federation's own processes on this machine: Redis, control plane, aggregator, distiller, query worker.

`fedafd up` and the demo give them SQLite and a folder; anything else (PostgreSQL, an S3 bucket) is a
matter of the same settings.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import httpx

from fedafd.client.http import make_client, trust_in
from fedafd.domain.errors import ConflictError
from fedafd.domain.own_folders import make_own
from fedafd.domain.proxies import is_off_machine
from fedafd.domain.secrets import SecretKind, new_secret
from fedafd.domain.whole_files import write_whole
from fedafd.local.aggregator_tls import aggregator_has_tls
from fedafd.local.supervisor import Child, Supervisor, find_redis_server, free_port, is_free

__all__ = ["Backends", "Services", "check_port", "cores", "restart_redis", "start_redis", "thread_environment"]


@dataclass(frozen=True, kw_only=True)
class Backends:
    """What the services keep their state in. `store` is the settings of the object store, such as {"URL": folder}."""

    database_url: str
    redis_url: str
    store: Mapping[str, str] = field(default_factory=dict)

    def environment(self, process: str) -> dict[str, str]:
        """The variables that tell one process about them."""
        prefix = f"FEDAFD_{process}_"
        values = {f"{prefix}REDIS_URL": self.redis_url}
        if process not in ("DISTILLER", "QUERIES"):
            values[f"{prefix}DATABASE_URL"] = self.database_url
        return values | {f"{prefix}STORE__{key}": value for key, value in self.store.items()}


def thread_environment(threads: int) -> dict[str, str]:
    """Limits a process to its share of the cores; without it two training processes slow each other many times."""
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # Threads that wait for each other sleep: spinning, they would take the cores from the processes beside them.
    return limits | {"OMP_WAIT_POLICY": "PASSIVE"}


def check_port(port: int | None, option: str) -> None:
    """Raises ConflictError for a port of 127.0.0.1 that is in use, and names the option that chooses another."""
    if port is not None and not is_free(port):
        raise ConflictError(f"port {port} of 127.0.0.1 is in use; choose another with {option}")


def start_redis(supervisor: Supervisor, folder: Path) -> str:
    """Start a Redis-compatible server on a free port of 127.0.0.1; returns its URL, with its password, once it answers.

    Pictures and texts that people try models with pass through it: without a password every user of this machine could
    read them, and write what the processes trust.
    """
    port, password = free_port(), secrets.token_urlsafe(32)
    _redis_on(supervisor, port, password, folder / "redis")
    supervisor.wait_until(lambda: _answers(port), "Redis", seconds=20)
    return f"redis://:{password}@127.0.0.1:{port}/0"


def restart_redis(supervisor: Supervisor, url: str, folder: Path) -> Child:
    """Start the server of `start_redis` again, on the port and with the password of its URL."""
    parts = urlsplit(url)
    return _redis_on(supervisor, parts.port or 6379, parts.password or "", folder / "redis")


def _redis_on(supervisor: Supervisor, port: int, password: str, folder: Path) -> Child:
    make_own(folder)
    # In a file of its owner's: everybody sees a process's arguments.
    file = folder / "redis.conf"
    write_whole(file, f"requirepass {password}\n" if password else "", mode=0o600)
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    return supervisor.start("redis", [str(find_redis_server()), str(file), *options, "--protected-mode", "yes"], {})


class Services:
    """Control plane, aggregator, distiller and query worker as processes of `supervisor`, on `backends`."""

    def __init__(
        self,
        supervisor: Supervisor,
        backends: Backends,
        *,
        http_port: int | None,
        threads: int,
        settings: Mapping[str, str] | None = None,
        grpc_port: int | None = None,
        api_key: str | None = None,
        internal_token: str | None = None,
    ) -> None:
        """`settings` are further environment variables of all of them. Ports and secrets that are None are chosen.

        Raises ConflictError for a port that is in use.
        """
        check_port(http_port, "--port")
        check_port(grpc_port, "--agents-port")
        self.supervisor = supervisor
        self.backends = backends
        self._threads = threads
        self._settings = dict(settings or {})
        self._internal_token = internal_token or new_secret(SecretKind.INTERNAL)
        self.api_key = api_key or new_secret(SecretKind.API_KEY)
        self._http_port = http_port or free_port()
        self._grpc_port = grpc_port or free_port()
        certificate = self._settings.get("FEDAFD_CONTROL_PLANE_TLS_CERTIFICATE")
        self._certificate = None if certificate is None else Path(certificate).expanduser()
        self.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{self._http_port}"
        self.aggregator = f"127.0.0.1:{self._grpc_port}"
        self._for_distillers = _listener_for_distillers(self._settings)

    def start(self, *, distiller: bool = True) -> None:
        """Migrate the database, start all but the query worker (and the distiller), wait until they are ready."""
        self.migrate()
        self.start_control_plane()
        self.wait_for_control_plane()
        self.start_aggregator()
        if distiller:
            self.start_distiller()
        self.supervisor.wait_until(lambda: _answers(self._grpc_port), "the aggregator")

    def wait_for_control_plane(self) -> None:
        """Wait until the control plane can serve."""
        self.supervisor.wait_until(self._control_plane_ready, "the control plane")

    def migrate(self) -> None:
        """Bring the database to this program's schema."""
        url = {"FEDAFD_DATABASE_URL": self.backends.database_url}
        command = [sys.executable, "-m", "fedafd.cli.main", "migrate"]
        child = self.supervisor.start("migrate", command, url, may_end=True)
        self.supervisor.wait_until(lambda: child.process.poll() is not None, "the migration")
        child.check()
        self.supervisor.forget(child)

    def environment(self, process: str, own: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """The variables of CONTROL_PLANE, AGGREGATOR, DISTILLER or QUERIES; `own` wins over what is chosen here."""
        chosen = {
            "CONTROL_PLANE": {
                "HOST": "127.0.0.1",
                "PORT": str(self._http_port),
                "ADMIN_KEY": self.api_key,
                "AGENTS_ADDRESS": f"0.0.0.0:{self._grpc_port}",
            },
            "AGGREGATOR": {"LISTEN": self.aggregator, "INTERNAL_TOKEN": self._internal_token},
            "DISTILLER": {"AGGREGATOR": self.aggregator, "INTERNAL_TOKEN": self._internal_token},
            "QUERIES": {},
        }[process]
        if self._for_distillers is not None and process == "AGGREGATOR":
            chosen |= {"INTERNAL_LISTEN": self._for_distillers}
        if self._for_distillers is not None and process == "DISTILLER":
            chosen |= {"AGGREGATOR": self._for_distillers, "PLAINTEXT": "false"}
        elif process == "DISTILLER" and aggregator_has_tls(self._settings, self.aggregator):
            chosen |= {"PLAINTEXT": "false"}
        variables = {f"FEDAFD_{process}_{key}": value for key, value in (chosen | dict(own)).items()}
        return variables | self.backends.environment(process) | self._settings

    def start_control_plane(self) -> Child:
        """Start the control plane."""
        return self._start("control-plane", "fedafd.control_plane.app", "CONTROL_PLANE", threads=1)

    def start_aggregator(
        self, listen: str | None = None, name: str = "aggregator", module: str = "fedafd.aggregator.server"
    ) -> Child:
        """Start the aggregator, or one of several with addresses of their own; `module` may be another that serves."""
        own = {"LISTEN": listen or self.aggregator}
        return self._start(name, module, "AGGREGATOR", own, threads=1)

    def start_distiller(self, module: str = "fedafd.distiller.worker") -> Child:
        """Start the distiller; `module` may be another that serves as one."""
        return self._start("distiller", module, "DISTILLER", threads=self._threads)

    def start_queries(self) -> Child:
        """Start the query worker, which takes less of the cores than who trains."""
        return self._start("queries", "fedafd.distiller.queries.worker", "QUERIES", threads=max(1, self._threads // 2))

    def _start(
        self, name: str, module: str, process: str, own: Mapping[str, str] = MappingProxyType({}), *, threads: int
    ) -> Child:
        environment = self.environment(process, own) | thread_environment(threads)
        return self.supervisor.start(name, [sys.executable, "-m", module], environment)

    def _control_plane_ready(self) -> bool:
        try:
            trust = None if self._certificate is None else trust_in(self._certificate)
            with make_client(self.url, trust=trust, timeout=2) as client:
                return client.get(f"{self.url}/readyz").status_code == httpx.codes.OK
        except (httpx.HTTPError, OSError):  # a certificate that cannot be read ends the process, which says so
            return False


def _listener_for_distillers(settings: Mapping[str, str]) -> str | None:
    """Where distillers dial, apart from agents: on this machine alone, once other machines reach the agents' port.

    None where they dial the agents' port, and where the settings say themselves what the distiller dials, and how.
    """
    if any(key.startswith(("FEDAFD_DISTILLER_AGGREGATOR", "FEDAFD_DISTILLER_TLS")) for key in settings):
        return None
    if "FEDAFD_DISTILLER_PLAINTEXT" in settings:
        return None
    given = settings.get("FEDAFD_AGGREGATOR_INTERNAL_LISTEN")
    if given is not None:
        return f"127.0.0.1:{given.rpartition(':')[2]}"
    off_machine = is_off_machine(settings.get("FEDAFD_AGGREGATOR_LISTEN", "127.0.0.1:1"))
    return f"127.0.0.1:{free_port()}" if off_machine else None


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
