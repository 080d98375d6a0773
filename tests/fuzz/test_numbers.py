"""Every number of every RPC's request at its edges: taken or refused in our own words, and none that is no number kept.

The fields are those of the protos' descriptors, so that a new field or RPC is tried without a line here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from sqlalchemy import inspect, text, update
from tests.fuzz.scene import TOKEN, Metadata, Open, Scene, Site, path_of, scene_on
from tests.fuzz.test_rpcs import METHODS, OURS

from fedafd.persistence.models import StageRow, utc_now
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.status import ERROR_CODE_KEY

F = FieldDescriptor
SITES = 24
INTEGERS = {
    F.TYPE_INT32: (-(2**31), 2**31 - 1),
    F.TYPE_SINT32: (-(2**31), 2**31 - 1),
    F.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    F.TYPE_ENUM: (-(2**31), 2**31 - 1),
    F.TYPE_UINT32: (0, 2**32 - 1),
    F.TYPE_FIXED32: (0, 2**32 - 1),
    F.TYPE_INT64: (-(2**63), 2**63 - 1),
    F.TYPE_SINT64: (-(2**63), 2**63 - 1),
    F.TYPE_SFIXED64: (-(2**63), 2**63 - 1),
    F.TYPE_UINT64: (0, 2**64 - 1),
    F.TYPE_FIXED64: (0, 2**64 - 1),
}
FLOATS = {F.TYPE_DOUBLE: 1.7976931348623157e308, F.TYPE_FLOAT: 3.4028234663852886e38}
SEVERAL = (0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**53, 2**62, 2**62 + 1, 2**63 - 1, 2**63)
"""Also the edges of what columns and JSON hold, where the field is wider than they are."""
SETTLING = {"CommitUpload", "LeaveRound"}
"""What a site has done once it does no more."""
NO_NUMBER = re.compile(r"(?<![\w\"])-?(nan|inf|infinity)(?![\w\"])", re.IGNORECASE)
KEY = "federated/acc1"
"""Of a map: one that is kept of a client's metrics; of a stage's all are."""
Path_ = tuple[Any, ...]


def edges(field: Any) -> list[Any]:
    """What a field is tried with: what is no number first, as it must leave nothing behind."""
    if field.type in FLOATS:
        most = FLOATS[field.type]
        return [math.nan, math.inf, -math.inf, most, -most, -1.0, 1.0 + 2**-20, 5e-324, -0.0, 0.0]
    least, most = INTEGERS[field.type]
    return sorted({least, most, most - 1, *(each for each in SEVERAL if least <= each <= most)}, reverse=True)


def numbers(kind: Any, seen: tuple[str, ...] = ()) -> Iterator[tuple[Path_, Any]]:
    """Every number within a message: the fields that lead to it, a map's key among them, and its own."""
    for field in kind.fields:
        inner = field.message_type
        if field.type in INTEGERS or field.type in FLOATS:
            yield (field.name,), field
        elif inner is not None and inner.GetOptions().map_entry:
            value = inner.fields_by_name["value"]
            if value.type in INTEGERS or value.type in FLOATS:
                yield (field.name, KEY), value
        elif inner is not None and inner.full_name not in seen:
            for path, number in numbers(inner, (*seen, kind.full_name)):
                yield (field.name, *path), number


def with_number(request: Message, path: Path_, value: Any) -> Message:
    """The request with one number of it replaced; the first element of what is repeated, which is added if need be."""
    made = type(request)()
    made.CopyFrom(request)
    place: Any = made
    for name in path[:-1]:
        field = place.DESCRIPTOR.fields_by_name[name]
        place, parent = getattr(place, name), place
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            place = place[0] if place else place.add()
            if place.DESCRIPTOR is parent.DESCRIPTOR:  # such as companions: as good as what they go with
                place.CopyFrom(request)
    if hasattr(place, "DESCRIPTOR"):
        field = place.DESCRIPTOR.fields_by_name[path[-1]]
        if field.is_repeated:
            getattr(place, path[-1])[:] = [value]
        else:
            setattr(place, path[-1], value)
    else:
        place[path[-1]] = value
    return made


class Walk:
    """Calls of one scene, with somebody left who may make each of them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._opened: Open | None = None
        self._sites: list[Site] = []
        self.num_answered = 0

    def call(self, method: MethodDescriptor, path: Path_, value: Any) -> str | None:
        """What is wrong with the answer; None if nothing is."""
        opened, site = self._fresh()
        likely = (opened.likely | site.likely).get(method.name)
        assert likely is not None, f"tests/fuzz/scene.py has no request of {method.name} that would do"
        request = with_number(likely, path, value)
        where = f"{method.name} {'.'.join(map(str, path))}={value!r}"
        is_number = not isinstance(value, float) or math.isfinite(value)
        waits = "wait" in method.input_type.fields_by_name
        try:
            self.scene.call(method, [request], self._metadata(method, site), seconds=1.0 if waits else 30.0)
        except grpc.RpcError as error:
            return self._fault(where, error, waits=waits, is_number=is_number)
        self.num_answered += 1
        if method.name in SETTLING:
            self._sites.pop(0)
        return None if is_number else f"{where}: taken, and it is no number"

    def _fault(self, where: str, error: grpc.RpcError, *, waits: bool, is_number: bool) -> str | None:
        if waits and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return None
        trailing: Any = error.trailing_metadata() or ()
        if error.code() not in OURS or ERROR_CODE_KEY not in dict(trailing):
            return f"{where}: {error.code()} {error.details()}"
        if not is_number and KEY in where and KEY not in (error.details() or ""):
            return f"{where}: {error.details()}, which does not name the metric"
        if not is_number and error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            return f"{where}: {error.code()} {error.details()}, not what a number that is none gets"
        return None

    def _fresh(self) -> tuple[Open, Site]:
        if self._opened is None or len(self._sites) < 2:  # with the last of them the round would end
            self._opened = self.scene.open(SITES)
            self._sites = list(self._opened.sites)
        held = {"state": "running", "worker": "script", "failures": 0}
        later = dict.fromkeys(("last_progress_at", "alive_at"), utc_now() + timedelta(hours=1))
        folds = update(StageRow).where(StageRow.round_id == self._opened.round_id, StageRow.kind == "fold")
        with self.scene.engine.begin() as connection:
            # As if nothing had been said of the claimed stages yet.
            connection.execute(folds.values(**held, **later))
        return self._opened, self._sites[0]

    def _metadata(self, method: MethodDescriptor, site: Site) -> Metadata:
        of_agents = method.containing_service.name == "AggregatorService"
        return site.metadata(path_of(method)) if of_agents else bearer_metadata(TOKEN)


def no_numbers(scene: Scene) -> list[str]:
    """Where the database keeps what is no number."""
    found = []
    with scene.engine.connect() as connection:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f"SELECT * FROM {table}")).mappings():
                found += [f"{table}.{name}: {value}" for name, value in row.items() if NO_NUMBER.search(str(value))]
    return found


@pytest.fixture
def scene(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Scene]:
    with scene_on(database_url, redis_url, tmp_path) as made:
        yield made


def test_every_number_of_every_request_is_tried() -> None:
    tried = {(method.name, *path) for method in METHODS for path, _ in numbers(method.input_type)}
    assert {
        ("ReportProgress", "fraction"),
        ("FetchTask", "wait", "seconds"),
        ("DownloadArtifact", "ranges", "length_bytes"),
        ("CommitUpload", "metrics", KEY),
        ("CompleteStage", "companions", "metrics", KEY),
        ("CompleteStage", "outputs", "artifact", "size_bytes"),
    } <= tried


def test_every_number_at_its_edges_is_taken_or_refused_and_none_kept_that_is_none(scene: Scene) -> None:
    walk, wrong = Walk(scene), list[str]()
    for method in METHODS:
        for path, field in numbers(method.input_type):
            wrong += filter(None, [walk.call(method, path, value) for value in edges(field)])
    assert wrong == []
    assert no_numbers(scene) == []
    assert scene.troubles() == []
    assert walk.num_answered > 50
