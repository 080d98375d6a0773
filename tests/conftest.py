"""Fixtures that many tests share: real servers, one of each per worker."""

from __future__ import annotations

import functools
import gc
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import grpc
import hypothesis
import pytest
import structlog
import typer.main
import typer.testing
from tests.databases import own_database
from tests.long import turn_of
from tests.servers import ROOT, Minio, minio_server, postgres_server, redis_server

# Tests start processes while channels of earlier ones are open. gRPC's handlers of a fork then run in the child before
# it becomes another program, and once in some thousand times end it with SIGABRT ("epoll_wait: Bad file descriptor").
# gRPC reads the setting at its first use; the processes that tests start have gRPC's own default.
grpc.insecure_channel("127.0.0.1:1").close()
del os.environ["GRPC_ENABLE_FORK_SUPPORT"]

# Typer builds the tree of commands anew for each command that is run; here some thousand are, and the tree is the same.
typer.main.get_command = typer.testing._get_command = functools.cache(  # type: ignore[attr-defined]
    typer.main.get_command
)

# Started in the background by a shell, tests ignore Ctrl-C, and so would the processes that they send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is no reason to fail.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: the collector of garbage looks for none in them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of many seconds come first: begun last, one would run alone while the other workers have nothing to do."""
    items.sort(key=lambda item: turn_of(item.nodeid))


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command prints no logs among its answers where nothing configured them; a test that did is no later test's."""
    configured = structlog.is_configured()
    yield
    if not configured:
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with minio_server(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    # Not below pytest's own folder: started by root, the server runs as another user, and each pytest that starts on
    # the machine closes that folder to others, which ends the servers in it.
    with tempfile.TemporaryDirectory(prefix="fedafd-postgres-") as folder, postgres_server(Path(folder)) as url:
        yield url


@pytest.fixture
def postgres_url(postgres: Callable[[], str]) -> Iterator[str]:
    """A fresh, empty PostgreSQL database."""
    with own_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The small cuts of real data: FEDAFD_TEST_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("FEDAFD_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "flickr8k").is_dir():
        pytest.skip(f"real data: {folder} is not there; set FEDAFD_TEST_DATA to a folder laid out as docs/data.md says")
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each test that asks for it runs on both databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgres_url"))
