"""Every RPC of every service under any request: refused in our own words or answered, and the process goes on.

Requests are made from the protos' descriptors, so that a new RPC or field is fuzzed without a line here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from tests.fuzz.long import IS_LONG, fuzz
from tests.fuzz.messages import Knowledge, build, changed, recipes
from tests.fuzz.scene import TOKEN, Metadata, Open, Scene, Site, path_of, scene_on

import fedafd.proto.v1
from fedafd.rpc.credentials import bearer_metadata
from fedafd.rpc.sessions import session_metadata
from fedafd.rpc.status import ERROR_CODE_KEY

_MODULES = [
    importlib.import_module(f"fedafd.proto.v1.{found.name}") for found in pkgutil.iter_modules(fedafd.proto.v1.__path__)
]
METHODS: list[MethodDescriptor] = [
    method
    for module in _MODULES
    if module.__name__.endswith("_pb2")
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
EXAMPLES = 400
SITES = 6
MOST_GROWTH_BYTES = 100 << 20
"""Of the aggregator: caches and what Python keeps; more calls need no more."""
ROWS_OF_A_CALL = 3
"""A refused one leaves none; the entry of a delivery, its artifact and the stage that follows from it are three."""
OURS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
}
"""What a refusal of ours may be; each has a code of ours beside it."""
_ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@pytest.fixture
def scene(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Scene]:
    with scene_on(database_url, redis_url, tmp_path) as made:
        yield made


@dataclass(frozen=True)
class Shape:
    """What is sent: messages of these recipes, or a likely one with so many of their fields, from `first` on."""

    recipes: list[dict[str, Any]]
    changes: int | None
    first: int
    cut: bytes | None
    """Written into the bytes; nothing to write: they are cut in half."""


@dataclass(frozen=True)
class Caller:
    """Who calls: the right kind of caller, one with odd metadata beside, or nobody that is known."""

    who: str
    number: int
    words: str


class Fuzzer:
    """Sends what hypothesis draws, and remembers what came of it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.knowledge = Knowledge()
        self.answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._opened_with = sum(scene.rows().values())
        self.opened = self._open()

    def num_rows(self) -> int:
        """How many came by the calls, beside those that rounds are opened with."""
        return sum(self.scene.rows().values()) - self._opened_with

    def _open(self) -> Open:
        before = sum(self.scene.rows().values())
        opened = self.scene.open(SITES)
        self._opened_with += sum(self.scene.rows().values()) - before
        for request in opened.likely.values():
            self.knowledge.hear(request)
        query = "SELECT id FROM stages WHERE round_id = :id"
        for stage_id in self.scene.column(query, id=opened.round_id):
            self.knowledge.keep("stage_id", FieldDescriptor.TYPE_STRING, stage_id)
        return opened

    def send(self, example: tuple[MethodDescriptor, Shape, Caller]) -> None:
        """One call."""
        method, shape, caller = example
        site = self.opened.sites[caller.number % len(self.opened.sites)]
        likely = (self.opened.likely | site.likely).get(method.name)
        made: list[Any] = [self._request(method, likely, shape, recipe) for recipe in shape.recipes]
        if shape.cut is not None:
            made = [_broken(each.SerializeToString(), shape.cut) for each in made]
        self._call(method, made, self._metadata(method, caller, site))
        if not self.scene.waits(self.opened):
            self.opened = self._open()

    def call_in_order(self) -> None:
        """Each RPC once, in a new round, as it should be: the process goes on serving."""
        opened = self._open()
        for number, method in enumerate(METHODS):
            uploads = {"upload_id", "upload_ids"} & set(method.input_type.fields_by_name)
            site = opened.sites[-1] if uploads else opened.sites[number % 2]
            request = (opened.likely | site.likely).get(method.name)
            assert request is not None, f"tests/fuzz/scene.py has no request of {method.name} that would do"
            self.scene.call(method, [request], self._metadata(method, Caller("right", 0, ""), site))

    def _request(
        self, method: MethodDescriptor, likely: Message | None, shape: Shape, recipe: dict[str, Any]
    ) -> Message:
        if likely is None or shape.changes is None:
            made = build(method.input_type, recipe, self.knowledge)
        else:
            made = type(likely)()
            made.CopyFrom(likely)
            names = list(recipe)
            few = [names[(shape.first + number) % len(names)] for number in range(min(shape.changes, len(names)))]
            made = changed(made, {name: recipe[name] for name in few}, self.knowledge)
        return made

    def _call(self, method: MethodDescriptor, requests: list[Any], metadata: Metadata) -> None:
        waits = "wait" in method.input_type.fields_by_name
        answers: list[Message] = []
        refusal: grpc.RpcError | None = None
        try:
            answers = self.scene.call(method, requests, metadata, seconds=0.2 if waits else 20.0)
        except grpc.RpcError as error:
            refusal = error
        code = grpc.StatusCode.OK if refusal is None else refusal.code()
        self.answers[method.name][code.name] += 1
        for answer in answers:
            self.knowledge.hear(answer)
        if refusal is None or (waits and code is grpc.StatusCode.DEADLINE_EXCEEDED):
            return
        told = (method.name, code, refusal.details(), requests, metadata)
        assert code in OURS, told
        trailing: Any = refusal.trailing_metadata() or ()
        assert ERROR_CODE_KEY in dict(trailing), told

    def _metadata(self, method: MethodDescriptor, caller: Caller, site: Site) -> Metadata:
        number, words = caller.number, caller.words
        if caller.who == "nobody":
            return (("authorization", words), ("fedafd-session", words), ("fedafd-proof", words))
        if caller.who == "odd":
            extra = [("traceparent", words), ("fedafd-proof", words), ("fedafd-ended-sessions", words)][number % 3]
            return (*bearer_metadata(site.secret), *session_metadata(site.session), extra)
        return {
            "AggregatorService": lambda: site.metadata(path_of(method)),
            "DistillationService": lambda: bearer_metadata(TOKEN),
        }[method.containing_service.name]()


def _examples() -> st.SearchStrategy[tuple[MethodDescriptor, Shape, Caller]]:
    callers = st.builds(Caller, st.sampled_from(["right"] * 12 + ["nobody", "odd"]), st.integers(0, SITES), _ASCII)
    cuts = st.sampled_from([None] * 9 + [b""]) | st.binary(max_size=9).map(lambda cut: cut or None)

    def call(method: MethodDescriptor) -> st.SearchStrategy[tuple[MethodDescriptor, Shape, Caller]]:
        streamed = method.client_streaming
        several = st.lists(recipes(method.input_type), min_size=0 if streamed else 1, max_size=3 if streamed else 1)
        shapes = st.builds(Shape, several, st.sampled_from([None, None, 0, 1, 1, 2]), st.integers(0, 9), cuts)
        return st.tuples(st.just(method), shapes, callers)

    return st.one_of([call(method) for method in METHODS])


def _broken(content: bytes, cut: bytes) -> bytes:
    """Bytes that are a message no more, or another one."""
    if not cut:
        return content[: len(content) // 2]
    at = cut[0] % (len(content) + 1)
    return content[:at] + cut + content[at + cut[-1] % 3 :]


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_every_field_of_a_request_is_fuzzed(method: MethodDescriptor) -> None:
    made: set[str] = set()
    fuzz(recipes(method.input_type), made.update, 50)
    assert made == set(method.input_type.fields_by_name)


def test_every_rpc_answers_or_refuses_whatever_it_is_sent(scene: Scene) -> None:
    fuzzer = Fuzzer(scene)
    resident = scene.resident_bytes()
    fuzz(_examples(), fuzzer.send, EXAMPLES)
    assert scene.troubles() == []
    assert scene.resident_bytes() - resident < MOST_GROWTH_BYTES
    answered = sum(answers["OK"] for answers in fuzzer.answers.values())
    assert fuzzer.num_rows() <= ROWS_OF_A_CALL * answered
    assert set(fuzzer.answers) == {each.name for each in METHODS} or IS_LONG  # which may have time for few
    fuzzer.call_in_order()
