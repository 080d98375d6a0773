"""`fedafd up`: the federation's own processes on this machine, kept: one command to begin, the same one to go on.

What is not configured is embedded: SQLite, a folder as object store, a Redis of its own. All of it lies in one folder.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedafd.cli.console import console_for
from fedafd.cli.doctor.up_folder import DEFAULT_FOLDER, note_settings
from fedafd.cli.model_tools import need_modules
from fedafd.cli.up_file import is_set, process_settings, read_up_file
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.own_folders import make_own
from fedafd.domain.secrets import SecretKind, check_length, new_secret, read_secret_file
from fedafd.domain.whole_files import write_whole
from fedafd.local.supervisor import log_tail

if TYPE_CHECKING:
    from rich.console import Console

    from fedafd.local.services import Backends, Services
    from fedafd.local.supervisor import Child, Supervisor

__all__ = ["GRACE_SECONDS", "up"]

_NEEDED = ("fastapi", "uvicorn", "grpc", "celery", "redis", "sqlalchemy", "torch", "transformers")
GRACE_SECONDS = 35.0
"""For each process to end after SIGTERM: a distiller hands its stage back, an aggregator finishes calls (25 s)."""
_LOOK_SECONDS = 0.25
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_STEADY_SECONDS = 60.0
"""How long a process has to run to count as recovered: its next pause is the first one again."""


def up(
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="up.yaml: settings of control_plane, aggregator, distiller and queries. See docs/up.md.",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where database, objects, secrets and logs lie.")] = DEFAULT_FOLDER,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of REST on this machine.")] = 8080,
    agents_port: Annotated[int, typer.Option(min=1, max=65535, help="Port that agents dial.")] = 7443,
    queries: Annotated[
        bool, typer.Option(help="Also a query worker, with which the dashboard tries model versions.")
    ] = True,
) -> None:
    """Run control plane, aggregator, distiller and query worker here until Ctrl-C; the same command goes on.

    Without settings everything is embedded and answers on this machine alone. A process that ends is started again.
    """
    need_modules("up", _NEEDED, "demo")
    settings = process_settings(read_up_file(file) if file is not None else {}, os.environ)
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        _run(folder, settings, port=port, agents_port=agents_port, queries=queries, console=console_for(stderr=True))


def _run(
    folder: Path, settings: Mapping[str, str], *, port: int, agents_port: int, queries: bool, console: Console
) -> None:
    from fedafd.domain.claims import claimed
    from fedafd.local.services import Services, cores
    from fedafd.local.supervisor import Supervisor

    home = _prepared(folder)
    with ExitStack() as stack:
        stack.enter_context(
            claimed(home / ".lock", f"{home}: another `fedafd up` runs here; stop it or choose another")
        )
        own_key, key_file = _own_key(settings), home / "secrets" / "admin-key"
        api_key, is_new = (own_key, False) if own_key is not None else _secret(key_file, SecretKind.API_KEY)
        token, _ = _secret(home / "secrets" / "internal-token", SecretKind.INTERNAL)
        supervisor = stack.enter_context(Supervisor(home / "logs"))
        stack.callback(_stop_in_order, supervisor, console)
        with console.status("Starting"):
            services = Services(
                supervisor,
                _backends(supervisor, home, settings),
                http_port=_port(settings, "FEDAFD_CONTROL_PLANE_PORT", port),
                grpc_port=_port(settings, "FEDAFD_AGGREGATOR_LISTEN", agents_port),
                threads=cores(),
                settings={
                    "FEDAFD_DISTILLER_CACHE_DIR": str(home / "cache"),
                    "FEDAFD_QUERIES_CACHE_DIR": str(home / "cache" / "queries"),
                }
                | _queries_store(settings)
                | dict(settings),
                api_key=api_key,
                internal_token=token,
            )
            note_settings(home, _all_settings(services, queries=queries))
            services.start()
            if queries:
                services.start_queries()
        _welcome(console, services, home, key_file=key_file if own_key is None else None, key_is_new=is_new)
        _keep(supervisor, services, home, console, queries=queries)


def _queries_store(settings: Mapping[str, str]) -> dict[str, str]:
    """Where the store is not the embedded one, the query worker reads the distiller's, unless it is told otherwise."""
    given = {key: value for key, value in settings.items() if key.startswith("FEDAFD_DISTILLER_STORE__")}
    if any(key.startswith("FEDAFD_QUERIES_STORE__") for key in settings):
        return {}
    return {key.replace("DISTILLER", "QUERIES", 1): value for key, value in given.items()}


def _all_settings(services: Services, *, queries: bool) -> dict[str, str]:
    """What the processes are given, for `fedafd doctor`."""
    names = ("CONTROL_PLANE", "AGGREGATOR", "DISTILLER", *(("QUERIES",) if queries else ()))
    variables = {key: value for name in names for key, value in services.environment(name).items()}
    return {key: value for key, value in variables.items() if queries or not key.startswith("FEDAFD_QUERIES_")}


def _prepared(folder: Path) -> Path:
    home = folder.absolute()
    # Also what processes write there, and what is copied from there to elsewhere.
    os.umask(0o077)
    try:
        for name in ("", "secrets", "store", "logs", "cache"):
            make_own(home / name)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename}: cannot be made: {error.strerror}; choose another --folder"
        ) from None
    return home


def _secret(path: Path, kind: SecretKind) -> tuple[str, bool]:
    """The secret that a file keeps, readable for its owner alone, and whether it was made just now."""
    if path.exists():
        return check_length(read_secret_file(path, "secret"), str(path)), False
    secret = new_secret(kind)
    write_whole(path, f"{secret}\n", mode=0o600)
    return secret, True


def _backends(supervisor: Supervisor, home: Path, settings: Mapping[str, str]) -> Backends:
    """Of database, Redis and store each one that is not configured is embedded."""
    from fedafd.local.services import Backends, start_redis

    own = {"DATABASE_URL": "", "REDIS_URL": ""}
    for name in own:
        given = {value for key, value in settings.items() if key.endswith(f"_{name}")}
        if len(given) > 1:
            raise ConfigurationError(f"{name}: the processes are given {len(given)} different ones; they share one")
        own[name] = given.pop() if given else ""
    store = {} if is_set(settings, "STORE") else {"URL": str(home / "store")}
    return Backends(
        database_url=own["DATABASE_URL"] or f"sqlite:///{home / 'fedafd.db'}",
        redis_url=own["REDIS_URL"] or start_redis(supervisor, home),
        store=store,
    )


def _port(settings: Mapping[str, str], name: str, option: int) -> int:
    """The port of a setting that is one or ends in one, else the option's."""
    text = settings.get(name, str(option))
    number = text.rpartition(":")[2]
    if not number.isdigit():
        raise ConfigurationError(f"{name}: {text!r} has no port")
    return int(number)


def _own_key(settings: Mapping[str, str]) -> str | None:
    """The admin's key where the settings name one."""
    name = "FEDAFD_CONTROL_PLANE_ADMIN_KEY"
    if name in settings:
        return settings[name]
    file = settings.get(f"{name}_FILE")
    return read_secret_file(Path(file), f"{name}_FILE") if file else None


def _welcome(console: Console, services: Services, home: Path, *, key_file: Path | None, key_is_new: bool) -> None:
    """Where everything is. `key_file` is None where the admin's key is the operator's own."""
    from rich.text import Text

    console.print(Text.assemble(("FedAFD is up", "bold green"), f", in {home}"), soft_wrap=True)
    rows = [("dashboard", services.url), ("agents dial", services.aggregator), ("logs", str(home / "logs"))]
    if key_is_new:
        rows.append(("API key", f"{services.api_key}   (shown this once)"))
    for name, value in rows:
        console.print(f"  {name:12} {value}", highlight=False, soft_wrap=True)
    finds = key_file is not None and home == DEFAULT_FOLDER.absolute()
    here = "Commands in this folder find it by themselves; elsewhere:"
    console.print(here if finds else "For commands in another terminal:", highlight=False)
    key = "" if key_file is None else f" FEDAFD_API_KEY_FILE={shlex.quote(str(key_file))}"
    console.print(f"  export FEDAFD_URL={services.url}{key}", highlight=False, soft_wrap=True)
    if key_is_new:
        console.print("A first federation, with a site on generated data, as a trial:", highlight=False)
        console.print("  fedafd bootstrap --name trial --site north:pair --rounds 1", highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops everything; the same command goes on.", highlight=False)


def _keep(supervisor: Supervisor, services: Services, home: Path, console: Console, *, queries: bool) -> None:
    """Start again whatever ends, after a pause that doubles while it keeps ending."""
    from fedafd.local.services import restart_redis

    starts: dict[str, Callable[[], Child]] = {
        "redis": partial(restart_redis, supervisor, services.backends.redis_url, home),
        "control-plane": services.start_control_plane,
        "aggregator": services.start_aggregator,
        "distiller": services.start_distiller,
    }
    if queries:
        starts["queries"] = services.start_queries
    pauses = dict.fromkeys(starts, _FIRST_PAUSE_SECONDS)
    started = dict.fromkeys(starts, time.monotonic())
    due: dict[str, float] = {}
    while True:
        now = time.monotonic()
        for child in supervisor.children:
            if child.process.poll() is None:
                continue
            supervisor.forget(child)
            name = child.name
            if now - started[name] > _STEADY_SECONDS:
                pauses[name] = _FIRST_PAUSE_SECONDS
            due[name] = now + pauses[name]
            _say_ended(console, child, pauses[name])
            pauses[name] = min(2 * pauses[name], _LONGEST_PAUSE_SECONDS)
        for name in [name for name, at in due.items() if at <= now]:
            del due[name]
            started[name] = now
            starts[name]()
        time.sleep(_LOOK_SECONDS)


def _say_ended(console: Console, child: Child, pause: float) -> None:
    from rich.text import Text

    ended = f"{child.name} {child.how_it_ended()}; starts again in {pause:.0f} s."
    console.print(Text.assemble((ended, "yellow"), f" {child.log} ends with:"), soft_wrap=True)
    console.print(Text(log_tail(child.log, lines=5)), soft_wrap=True)


def _stop_in_order(supervisor: Supervisor, console: Console) -> None:
    """The distiller first, which hands its stage back to an aggregator that still answers; Redis last."""
    console.print("Stopping; Ctrl-C again ends everything at once.")
    try:
        for child in reversed(supervisor.children):
            if child.process.poll() is None:
                child.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(GRACE_SECONDS)
    except KeyboardInterrupt:
        supervisor.stop(0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
