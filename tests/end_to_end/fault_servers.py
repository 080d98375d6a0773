"""Scenes of faults of what the services stand on: PostgreSQL and MinIO, lines that lose answers, disks that fill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
from minio import Minio
from tests.end_to_end.fault_scene import Scene
from tests.end_to_end.federation import Trial
from tests.end_to_end.grpc_line import GrpcLine
from tests.servers import accepts, child, free_port, postgres_server, required_go_program, wait_until

from fedafd.local.services import Backends

__all__ = ["DisksScene", "LinesScene", "ServersScene"]

_BUCKET, _USER, _PASSWORD = "fedafd", "tester", "test-secret-1234"


class ServersScene(Scene):
    """On PostgreSQL and MinIO."""

    def backends(self, redis_url: str) -> Backends:
        # Not below our folder: started by root, the server runs as another user.
        self._cluster = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fedafd-postgres-")))
        self._postgres = self.stack.enter_context(postgres_server(self._cluster))
        _keep_commits(self._postgres())
        self._minio, self._port = self.stack.enter_context(ExitStack()), free_port()
        self._start_minio()
        Minio(f"127.0.0.1:{self._port}", _USER, _PASSWORD, secure=False).make_bucket(_BUCKET)
        store = {
            "URL": f"s3://{_BUCKET}",
            "ENDPOINT": f"127.0.0.1:{self._port}",
            "SECURE": "false",
            "ACCESS_KEY": _USER,
            "SECRET_KEY": _PASSWORD,
        }
        return Backends(database_url=self._postgres(), redis_url=redis_url, store=store)

    @contextmanager
    def postgres_killed(self) -> Iterator[None]:
        """Without a last checkpoint; its connections end. Back by its log."""
        os.kill(self._postmaster(), signal.SIGKILL)
        yield
        self._postgres()

    @contextmanager
    def postgres_frozen(self) -> Iterator[None]:
        """The server and the processes of all its connections, which stay open."""
        with _frozen([self._postmaster(), *_children(self._postmaster())]):
            yield

    @contextmanager
    def minio_killed(self) -> Iterator[None]:
        self._process.kill()
        yield
        self._minio.close()
        self._start_minio()

    @contextmanager
    def minio_frozen(self) -> Iterator[None]:
        with _frozen([self._process.pid]):
            yield

    def _start_minio(self) -> None:
        place = self.folder / "minio"
        place.mkdir(exist_ok=True)
        options = ["server", str(place), "--address", f"127.0.0.1:{self._port}", "--quiet"]
        keys = {"MINIO_ROOT_USER": _USER, "MINIO_ROOT_PASSWORD": _PASSWORD, "MINIO_BROWSER": "off"}
        command = [required_go_program("minio"), *options]
        self._process = self._minio.enter_context(child(command, self.folder / "minio.log", **keys))
        wait_until(lambda: accepts(self._port), "MinIO")

    def _postmaster(self) -> int:
        return int((self._cluster / "postmaster.pid").read_text().split()[0])


class _OwnLine(Trial):
    """The distiller reaches the aggregator through a line of its own."""

    scene: LinesScene

    def start_services(self, *, distiller: bool) -> None:
        services = self.services
        services.start(distiller=False)
        address = services.aggregator
        host, port = address.split(":")
        self.scene.distiller_line = GrpcLine((host, int(port)))
        services.aggregator = f"127.0.0.1:{self.scene.distiller_line.port}"
        services.start_distiller()
        services.aggregator = address


class LinesScene(Scene):
    """The lines of the sites and of the distiller to the aggregator can lose, be slow, and refuse."""

    trial_kind = _OwnLine
    line_kind = GrpcLine
    distiller_line: GrpcLine
    sites_line: GrpcLine

    def backends(self, redis_url: str) -> Backends:
        _OwnLine.scene = self
        return super().backends(redis_url)

    def close(self) -> None:
        super().close()
        self.distiller_line.close()


class DisksScene(Scene):
    """The store and the distiller's cache are small file systems of their own. Needs root."""

    def backends(self, redis_url: str) -> Backends:
        if os.geteuid() != 0:
            raise PermissionError("mounting needs root")
        for name in ("store", "cache"):
            place = self.folder / name
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(place)], check=True)
            self.stack.callback(subprocess.run, ["umount", "--lazy", str(place)], check=True)
        return super().backends(redis_url)

    @contextmanager
    def full(self, name: str) -> Iterator[None]:
        """Not a byte is left on that disk."""
        filler = self.folder / name / ".filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):  # others write, too
            while free := shutil.disk_usage(filler.parent).free:
                file.write(bytes(free))
        yield
        filler.unlink()

    @contextmanager
    def cache_full(self) -> Iterator[None]:
        """A distiller comes that has nothing in its cache yet, and no space for it."""
        self.kill("distiller")
        for path in (self.folder / "cache").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with self.full("cache"):
            self.start("distiller")
            yield


def _keep_commits(url: str) -> None:
    """What is committed outlives the server, as everywhere but in tests that are in a hurry."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM RESET synchronous_commit")
        connection.execute("SELECT pg_reload_conf()")


@contextmanager
def _frozen(pids: Iterable[int]) -> Iterator[None]:
    stopped = list(pids)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
