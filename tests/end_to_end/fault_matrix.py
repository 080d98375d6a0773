"""The fault matrix: each fault in each state of a round, the seconds until the round ends, and whether a bit differs.

`python -m tests.end_to_end.fault_matrix --write docs/faults.md` (make test-faults) runs all of it on this machine and
writes the table; it exits with 1 if a line is red. tests/end_to_end/test_fault_matrix.py runs a part.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.fault_places import TlsScene, TwoAggregatorsScene
from tests.end_to_end.fault_scene import MOMENTS, Scene, flip, swallowing
from tests.end_to_end.fault_servers import DisksScene, LinesScene, ServersScene
from tests.end_to_end.grpc_line import GrpcLine
from tests.end_to_end.soaked import recorded

from fedafd.domain.errors import FedafdError

__all__ = ["FAULTS", "Fault", "Line", "run_line"]

_SECONDS = 6.0
"""How long what is frozen, away or locked stays so."""


@dataclass(frozen=True)
class Fault:
    """`strike` does it and puts it right again; it may return a remark."""

    name: str
    strike: Callable[[Any], str | None]
    moments: Sequence[str] = MOMENTS
    scene: type[Scene] = Scene


@dataclass(frozen=True)
class Line:
    """What became of a round. `back_seconds`: from when all parts were back until it ended."""

    fault: str
    moment: str
    back_seconds: float
    red: str
    remark: str


def _restarted(*names: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        with scene.without(*names):
            time.sleep(1)

    return strike


_Outage = Callable[[Any], AbstractContextManager[None]]


def _redis_swallowed(scene: Scene) -> AbstractContextManager[None]:
    return swallowing(scene.redis_line)


def _sites_swallowed(scene: Scene) -> AbstractContextManager[None]:
    return swallowing(scene.sites_line)


def _for_a_while(outage: _Outage) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        with outage(scene):
            time.sleep(_SECONDS)

    return strike


def _frozen(name: str) -> Callable[[Scene], None]:
    return _for_a_while(lambda scene: scene.frozen(name))


def _asked_to_end(name: str, during: _Outage = lambda _: nullcontext()) -> Callable[[Scene], str]:
    """Ended by SIGTERM, and started again once the outage is over."""

    def strike(scene: Scene) -> str:
        with during(scene):
            seconds = scene.end(name)
        scene.start(name)
        return f"ended after {seconds:.1f} s"

    return strike


def _of_the_distillers(outage: Callable[[GrpcLine], AbstractContextManager[None]]) -> Callable[[Scene], None]:
    return _for_a_while(lambda scene: outage(scene.distiller_line))


def _of_the_sites(outage: Callable[[GrpcLine], AbstractContextManager[None]]) -> Callable[[Scene], None]:
    return _for_a_while(lambda scene: outage(scene.sites_line))


def _store_away_while_drained(scene: Scene) -> str:
    scene.later.enter_context(scene.drained())
    _for_a_while(Scene.store_away)(scene)
    return "drained until the round was over"


def _skewed(seconds: int) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        scene.kill("distiller")
        os.environ["SKEWED_SECONDS"] = str(seconds)
        scene.trial.services.start_distiller("tests.end_to_end.skewed_distiller")

    return strike


def _two_distillers(scene: Scene) -> None:
    first = scene.child("distiller")
    scene.trial.services.start_distiller()
    _frozen("distiller")(scene)
    scene.trial.kill(first)


def _one_of_two_distillers_killed(scene: Scene) -> None:
    first = scene.child("distiller")
    scene.trial.services.start_distiller()
    time.sleep(_SECONDS)
    scene.trial.kill(first)


def _renewed_unseen(scene: TlsScene) -> None:
    with swallowing(scene.sites_line):
        scene.renew_certificates()
        scene.kill("aggregator")
        scene.start("aggregator")
        time.sleep(_SECONDS)


def _strange_certificate(scene: TlsScene) -> None:
    with scene.strange_certificate():
        time.sleep(_SECONDS)


def _lost(purpose: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        for path in scene.objects(scene.number, purpose):
            path.unlink()

    return strike


def _flipped(purpose: str, rounds_ago: int = 0) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        for path in scene.objects(scene.number - rounds_ago, purpose):
            flip(path)

    return strike


_SITES = ("training", "delivering")
_STAGES = ("preparing", "delivering", "distilling")
FAULTS: tuple[Fault, ...] = (
    Fault("nothing", lambda _: None, ("preparing",)),
    Fault("distiller killed", _restarted("distiller")),
    Fault("aggregator killed", _restarted("aggregator")),
    Fault("control plane killed", _restarted("control-plane"), ("preparing", "training")),
    Fault("agent killed", _restarted("agent-pairs"), ("training", "delivering")),
    Fault("all of the services killed", _restarted("distiller", "aggregator", "control-plane")),
    Fault("distiller frozen", _frozen("distiller"), ("preparing", "delivering")),
    Fault("aggregator frozen", _frozen("aggregator")),
    Fault("agent frozen", _frozen("agent-pairs"), ("training",)),
    Fault("a second distiller comes, the first freezes and dies", _two_distillers, ("preparing", "delivering")),
    Fault("distiller asked to end", _asked_to_end("distiller"), ("preparing", "training")),
    Fault("aggregator asked to end", _asked_to_end("aggregator"), ("preparing", "training")),
    Fault(
        "distiller asked to end without an aggregator",
        _asked_to_end("distiller", lambda scene: scene.without("aggregator")),
        ("preparing",),
    ),
    Fault(
        "distiller asked to end, aggregator frozen",
        _asked_to_end("distiller", lambda scene: scene.frozen("aggregator")),
        ("preparing",),
    ),
    Fault(
        "distiller asked to end, store away", _asked_to_end("distiller", Scene.store_away), ("preparing", "distilling")
    ),
    Fault("distiller asked to end, Redis away", _asked_to_end("distiller", Scene.redis_away), ("preparing",)),
    Fault(
        "distiller asked to end, line to Redis swallows", _asked_to_end("distiller", _redis_swallowed), ("preparing",)
    ),
    Fault("aggregator asked to end, store away", _asked_to_end("aggregator", Scene.store_away), ("delivering",)),
    Fault("aggregator asked to end, database locked", _asked_to_end("aggregator", Scene.database_locked), _SITES),
    Fault(
        "aggregator asked to end, line to Redis swallows", _asked_to_end("aggregator", _redis_swallowed), ("training",)
    ),
    Fault("aggregator asked to end, line to the sites swallows", _asked_to_end("aggregator", _sites_swallowed), _SITES),
    Fault("drained, store away", _store_away_while_drained, ("preparing", "training")),
    Fault("Redis away, back empty", _for_a_while(Scene.redis_away)),
    Fault("line to Redis swallows", _for_a_while(_redis_swallowed), ("preparing", "training")),
    Fault("line to the sites swallows", _for_a_while(_sites_swallowed), ("training",)),
    Fault("store away", _for_a_while(Scene.store_away)),
    Fault("database locked", _for_a_while(Scene.database_locked)),
    Fault("global representations lost", _lost("representations"), ("training",)),
    Fault("encoder bundles damaged", _flipped("encoder-bundle"), ("training",)),
    Fault("SED states damaged", _flipped("sed-state"), ("delivering",)),
    Fault("server state lost", _lost("server-state"), ("training", "delivering")),
    Fault(
        "a site's folder read-only",
        lambda scene: scene.folder_read_only("pairs", 4 * _SECONDS),
        ("training",),
    ),
    Fault("the distiller's clock two hours ahead", _skewed(7200), ("preparing", "delivering")),
    Fault("the distiller's clock ten minutes behind", _skewed(-600), ("preparing", "delivering")),
    Fault("one of two distillers killed", _one_of_two_distillers_killed, ("preparing", "training")),
    Fault("server state of the current version damaged", _flipped("server-state", 1), ("preparing",)),
    Fault("TLS: aggregator killed", _restarted("aggregator"), ("preparing", "delivering"), TlsScene),
    Fault("TLS: line to the sites swallows", _for_a_while(_sites_swallowed), ("training",), TlsScene),
    Fault("TLS: certificates renewed meanwhile", _renewed_unseen, ("preparing", "training"), TlsScene),
    Fault("TLS: a certificate that nobody trusts", _strange_certificate, ("preparing", "training"), TlsScene),
    Fault("PostgreSQL killed", _for_a_while(ServersScene.postgres_killed), scene=ServersScene),
    Fault("PostgreSQL frozen", _for_a_while(ServersScene.postgres_frozen), scene=ServersScene),
    Fault("MinIO killed", _for_a_while(ServersScene.minio_killed), scene=ServersScene),
    Fault("MinIO frozen", _for_a_while(ServersScene.minio_frozen), scene=ServersScene),
    Fault("answers to the distiller lost", _of_the_distillers(GrpcLine.losing_answers), _STAGES, LinesScene),
    Fault("answers to the sites lost", _of_the_sites(GrpcLine.losing_answers), _SITES, LinesScene),
    Fault("line of the distiller slow", _of_the_distillers(GrpcLine.slow), _STAGES, LinesScene),
    Fault("line of the sites slow", _of_the_sites(GrpcLine.slow), _SITES, LinesScene),
    Fault("line of the distiller refused", _of_the_distillers(GrpcLine.refusing), _STAGES, LinesScene),
    Fault("line of the sites refused", _of_the_sites(GrpcLine.refusing), _SITES, LinesScene),
    Fault("store full", _for_a_while(lambda scene: scene.full("store")), scene=DisksScene),
    Fault("distiller's cache full", _for_a_while(DisksScene.cache_full), ("preparing",), DisksScene),
    Fault("first of two aggregators 20 s ahead", lambda scene: scene.skewed(0, 20), _SITES, scene=TwoAggregatorsScene),
    Fault(
        "second of two aggregators 20 s behind", lambda scene: scene.skewed(1, -20), _SITES, scene=TwoAggregatorsScene
    ),
    Fault("first of two aggregators without database", lambda scene: scene.cut_off(0), scene=TwoAggregatorsScene),
    Fault("second of two aggregators without database", lambda scene: scene.cut_off(1), scene=TwoAggregatorsScene),
)


def run_line(scene: Scene, fault: Fault, moment: str) -> Line:
    """One round with one fault."""
    back, seconds, red, remark = time.monotonic(), 0.0, "", ""
    try:
        scene.begin_round()
        scene.until(moment)
        remark = fault.strike(scene) or ""
        back = time.monotonic()
        answer = scene.end_round()
        seconds = time.monotonic() - back
        missing = {part["client"]: part["reason"] for part in answer["participations"] if part["state"] != "delivered"}
        remark = "; ".join([*filter(None, [remark]), *(f"without {name}: {why}" for name, why in missing.items())])
        scene.compare(answer, missing.keys())
        if missing:
            red = "went on without a site"
    except (FedafdError, subprocess.TimeoutExpired) as error:
        red = str(error)
    except AssertionError:
        red = "bits differ"
    return Line(fault.name, moment, seconds, red, remark)


def _table(lines: Sequence[Line]) -> str:
    rows = [
        f"| {line.fault} | {line.moment} | {'**' + line.red + '**' if line.red else 'completed'} |"
        f" {line.back_seconds:.1f} | {'-' if line.red else 'all equal'} | {line.remark} |"
        for line in lines
    ]
    return "\n".join(
        [
            "| fault | when | the round | seconds after the fault | bits | remark |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


_SOAKED = Path(__file__).resolve().parents[2] / "docs" / "results" / "soak.json"
"""What `make soak` has found."""
ELSEWHERE = {
    "a distiller that dies in the middle of each kind of stage": "tests/end_to_end/test_faults.py",
    "a distiller that dies or ends within a long stage: which steps are made again": (
        "tests/end_to_end/test_kept_progress.py"
    ),
    "each status of gRPC in answer to each call of an agent": "tests/agent/test_agent_joining.py",
    "each status of gRPC in answer to each call of a distiller": "tests/distiller/test_answers.py",
    "the lost answer of an enrolment": "tests/aggregator/test_repeated_enrolment.py",
    "deliveries that the store loses": "tests/end_to_end/test_damage.py",
    "a full store, seen by a site and by the round": "tests/aggregator/test_full_store.py",
    "a full cache of a distiller": "tests/distiller/test_patience.py",
    "a server state that is lost for good, and a rollback after it": "tests/aggregator/test_unusable_states.py",
    "PostgreSQL and Redis that hang, and a lease of a clock two hours ahead": (
        "tests/aggregator/test_hung_dependencies.py"
    ),
    "two aggregators whose clocks are 40 s apart": "tests/end_to_end/test_skewed_clocks.py",
    "a distiller that no longer receives": "tests/distiller/test_hearing.py",
    "a drain": "tests/end_to_end/test_drain.py",
}
"""Faults that other tests cause, and where."""
_PAGE = """# Faults, and what became of the round

A test causes one fault in each round of a real federation, and compares the result with a round without faults.
A row of the table is one round. `make test-faults` runs the test and writes this page.

- **The federation** has three agents, one distiller, a control plane and an aggregator, each a process of its
  own, on SQLite, a folder as the store and a real Redis, with tiny encoders. In rows that begin with TLS every
  connection has certificates on both sides. Rows with two aggregators use PostgreSQL; one of the two is cut off
  from it, or has another clock, until the round ends. Rows of PostgreSQL and MinIO use these two in place of SQLite
  and the folder. In rows of full disks the store and the distiller's cache are small file systems of their own.
- **How long a fault lasts.** A frozen process, an outage, a full disk, a broken line or a lock lasts {seconds:g} s, a
  read-only folder four times as long. A slow line adds a quarter of a second to each piece. A killed process is started
  again after a second. A process that is asked to end during an outage is started after it.
- **Seconds** count from the end of the fault (with one of two aggregators cut off: from its beginning) to the
  end of the round. They include the work that the round still had to do, on a machine that other programs used,
  too.
- **Bits** compares the published model, each site's personalized model and the metrics, byte for byte, with the
  same round in one process without any service.

{table}

{count} rounds, {red} red.

**Many rounds in a row.** `make soak` runs such rounds one after the other, each with a fault and a moment that a seed
draws, and measures memory, file handles, rows, objects and bytes after each.{soaked}

## Tested elsewhere

| fault | test |
|---|---|
{elsewhere}
"""


def page_of(table: str, count: int, red: int) -> str:
    """The page with that table of `count` rounds, of which `red` are red."""
    runs = [
        f" On {run.day}, of {run.rounds} rounds with seed {run.seed} every bit was equal, and"
        f" {'; '.join(run.grew) + ' grew' if run.grew else 'nothing grew'}."
        for run in recorded(_SOAKED)
    ]
    elsewhere = "\n".join(f"| {fault} | `{test}` |" for fault, test in ELSEWHERE.items())
    return _PAGE.format(seconds=_SECONDS, table=table, count=count, red=red, soaked="".join(runs), elsewhere=elsewhere)


def main() -> int:
    """Run all, or the faults whose names hold a text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run the faults whose name holds one of these texts, with | between")
    parser.add_argument("--write", type=Path, help="write the page there")
    arguments = parser.parse_args()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="fedafd-faults-") as folder:
        scene: Scene | None = None
        for fault in (fault for fault in FAULTS if any(part in fault.name for part in arguments.only.split("|"))):
            for moment in fault.moments:
                if scene is not None and type(scene) is not fault.scene:
                    scene.close()
                    scene = None
                scene = scene or fault.scene(Path(folder) / str(len(lines)))
                line = run_line(scene, fault, moment)
                lines.append(line)
                told = f"{line.fault:55s} {line.moment:11s} {line.back_seconds:6.1f} s  {line.red or 'equal'}"
                sys.stdout.write(f"{told}  {line.remark}\n")
                sys.stdout.flush()
                if line.red:  # the rounds after it would go on from something else
                    scene.close()
                    scene = None
        if scene is not None:
            scene.close()
    red = sum(bool(line.red) for line in lines)
    if arguments.write is not None:
        arguments.write.write_text(page_of(_table(lines), len(lines), red), encoding="utf-8")
    return 1 if red else 0


if __name__ == "__main__":
    raise SystemExit(main())
