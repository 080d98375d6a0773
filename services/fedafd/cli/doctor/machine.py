"""What the machine has for the processes: ports to listen on, space on the disks that they write to."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from fedafd.cli.doctor.deployment import Deployment
from fedafd.cli.doctor.findings import Finding, bad, fine, look
from fedafd.client.http import make_client, trust_in
from fedafd.domain.addresses import split_address

__all__ = ["look_at_disks", "look_at_ports"]

_SECONDS = 3.0
_LITTLE_BYTES = 2 << 30
_NOTHING_BYTES = 200 << 20
_LISTENS = (
    ("aggregator", "listen"),
    ("aggregator", "metrics_listen"),
    ("distiller", "metrics_listen"),
    ("queries", "metrics_listen"),
)
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens everywhere is asked here


def look_at_ports(deployment: Deployment) -> Iterator[Finding]:
    """Each address that a process listens on: free, or taken by that process."""
    if (settings := deployment.control_plane) is not None:
        variable = "FEDAFD_CONTROL_PLANE_PORT"
        certificate = settings.tls_certificate and settings.tls_certificate.expanduser()
        yield _port("control-plane", settings.host, settings.port, variable, is_http=True, certificate=certificate)
    for name, listens in _LISTENS:
        settings_of: Any = getattr(deployment, name)
        address = getattr(settings_of, listens, None)
        if address is not None:
            host, port = split_address(address)
            variable = f"FEDAFD_{name.upper()}_{listens.upper()}"
            yield _port(name, host, port, variable, is_http=listens != "listen")


def _port(
    process: str, host: str, port: int, variable: str, *, is_http: bool, certificate: Path | None = None
) -> Finding:
    address = f"{host}:{port}"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _taken(process, host, port, variable, is_http=is_http, certificate=certificate)
            return bad("ports", f"{address}: {process} cannot listen there: {error.strerror}", f"set {variable}")
    return fine("ports", f"{address}: free for the {process}, which does not run now")


def _taken(process: str, host: str, port: int, variable: str, *, is_http: bool, certificate: Path | None) -> Finding:
    """Whether it is ours that has the port. gRPC is asked for its health elsewhere."""
    address = f"{host}:{port}"
    if not is_http:
        return fine("ports", f"{address}: in use, by an aggregator if the line to it below is fine")
    url = f"{'http' if certificate is None else 'https'}://{_ANY.get(host, host)}:{port}"
    try:
        trust = None if certificate is None else trust_in(certificate)
        with make_client(url, trust=trust, timeout=_SECONDS) as client:
            ours = process != "control-plane" or client.get(f"{url}/healthz").json() == {"status": "ok"}
            ours = ours and (process == "control-plane" or "fedafd_" in client.get(f"{url}/metrics").text)
    except (httpx.HTTPError, OSError, ValueError):
        ours = False
    if ours:
        return fine("ports", f"{address}: the {process} answers there")
    return bad("ports", f"{address}: another program listens there", f"stop it, or set {variable} to a free port")


def look_at_disks(deployment: Deployment) -> Iterator[Finding]:
    """The free space wherever a process writes, once for each disk."""
    disks: dict[int, tuple[Path, list[str]]] = {}
    for what, folder in _folders(deployment):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        disks.setdefault(there.stat().st_dev, (there, []))[1].append(what)
    for there, uses in disks.values():
        usage = shutil.disk_usage(there)
        words = f"{there}: {usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free ({', '.join(uses)})"
        if usage.free < _NOTHING_BYTES:
            yield bad("disk", words, "free some space; `fedafd store prune` removes what no round needs")
        elif usage.free < _LITTLE_BYTES:
            yield look("disk", words, "free some space before the next rounds: `fedafd store prune`, or a larger disk")
        else:
            yield fine("disk", words)


def _folders(deployment: Deployment) -> Iterator[tuple[str, Path]]:
    url = deployment.first("database_url") or ""
    if url.startswith("sqlite:///"):
        yield "database", Path(url.removeprefix("sqlite:///")).absolute()
    store = str(deployment.first("store.url") or "s3://")
    if not store.startswith("s3://"):
        yield "store", Path(store.removeprefix("file://")).absolute()
    for whose, settings in (("distiller's", deployment.distiller), ("query worker's", deployment.queries)):
        if settings is not None and settings.cache_dir is not None:
            yield f"the {whose} cache", settings.cache_dir.absolute()
    yield "temporary files", Path(tempfile.gettempdir())
