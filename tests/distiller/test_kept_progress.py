"""A long stage's progress in the store: found by the next worker of that very stage, by no other, and only if whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedafd.distiller.claims import Claimed
from fedafd.distiller.kept_progress import ProgressKeeper
from fedafd.distiller.metrics import DistillerMetrics
from fedafd.distiller.patience import Patience
from fedafd.domain.kinds import StageKind
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.waypoints import Waypoints
from fedafd.proto.v1 import distillation_pb2 as pb
from fedafd.rpc.codes import wire_stage_kind
from fedafd.storage.folder import FolderStore

TOKEN = "internal-token-of-the-test-0123456789"
PREFIX = "federations/trial/rounds/3/progress/"


class Watched(FolderStore):
    """Counts what it is asked for."""

    calls = 0

    def put(self, key: str, data: bytes) -> None:
        self.calls += 1
        super().put(key, data)

    def get(self, key: str) -> bytes:
        self.calls += 1
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "store")


def claim(token: int = 2, kind: StageKind = StageKind.DISTIL, **changes: object) -> pb.ClaimStageResponse:
    answer = pb.ClaimStageResponse(
        token=token,
        kind=wire_stage_kind(kind),
        federation_id="trial",
        round_id="round",
        round_number=3,
        seed=7,
        federation_config_json='{"name": "trial", "embedding_dim": 8}',
        public_set_sha256="a" * 64,
    )
    answer.inputs.add(name="server-state").artifact.sha256 = "b" * 64
    for name, value in changes.items():
        setattr(answer, name, value)
    return answer


def waypoints(
    store: FolderStore, of: pb.ClaimStageResponse, *, token: str = TOKEN, device: str = "cpu", every: float = 0.0
) -> Waypoints:
    keeper = ProgressKeeper(
        store=store,
        patience=Patience(give_up_seconds=0),
        metrics=DistillerMetrics(),
        internal_token=token,
        device=device,
        every_seconds=every,
        asked=lambda: False,
    )
    return keeper.waypoints(Claimed("stage", of))


def keep(store: FolderStore, value: float, of: pb.ClaimStageResponse | None = None) -> None:
    ways = waypoints(store, of or claim(token=1))
    ways.keep("training", Checkpoint({"weight": torch.full((4,), value)}, {"done": 5}))
    ways.settle()


def kept(ways: Waypoints) -> float | None:
    found = ways.last("training")
    return None if found is None else float(found.tensors["weight"][0])


def test_the_next_worker_of_the_stage_finds_what_was_kept_last(store: Watched) -> None:
    keep(store, 1.0)
    assert kept(waypoints(store, claim())) == 1.0
    second = waypoints(store, claim())
    assert kept(second) == 1.0
    for value in (2.0, 3.0, 4.0):
        second.keep("training", Checkpoint({"weight": torch.full((4,), value)}))
    second.settle()
    assert kept(waypoints(store, claim(token=3))) == 4.0
    # However often it is kept, there are two states and what names the newer one.
    assert len(list(store.list(PREFIX))) == 3


def test_a_short_stage_and_the_first_worker_of_a_long_one_ask_the_store_for_nothing(store: Watched) -> None:
    assert waypoints(store, claim(token=1), every=60).last("training") is None
    assert not waypoints(store, claim(kind=StageKind.FOLD)).keeps
    assert store.calls == 0


def _other_input() -> pb.ClaimStageResponse:
    other = claim()
    other.inputs[0].artifact.sha256 = "c" * 64
    return other


@pytest.mark.parametrize(
    "other",
    [
        lambda: claim(seed=8),
        lambda: claim(round_id="another"),
        lambda: claim(kind=StageKind.PREPARE),
        lambda: claim(federation_config_json='{"name": "trial", "embedding_dim": 16}'),
        lambda: claim(public_set_sha256="d" * 64),
        _other_input,
    ],
    ids=["seed", "round", "kind", "configuration", "public set", "input"],
)
def test_what_was_kept_of_another_stage_is_not_found(
    store: Watched, other: Callable[[], pb.ClaimStageResponse]
) -> None:
    keep(store, 1.0)
    assert kept(waypoints(store, other())) is None


def test_a_gpu_does_not_go_on_with_a_cpus_work(store: Watched) -> None:
    keep(store, 1.0)
    assert kept(waypoints(store, claim(), device="cuda")) is None


def test_a_flipped_bit_is_not_gone_on_from(store: Watched) -> None:
    keep(store, 1.0)
    for entry in list(store.list(PREFIX)):
        if not entry.key.endswith("newest"):
            content = bytearray(store.get(entry.key))
            content[-1] ^= 1
            store.put(entry.key, bytes(content))
    assert kept(waypoints(store, claim())) is None


@pytest.mark.parametrize("text", [b"", b"{}", b"no json", b'{"turn": 0, "sha256": "x", "seal": "y"}', b"[1]"])
def test_a_note_that_is_damaged_is_not_followed(store: Watched, text: bytes) -> None:
    keep(store, 1.0)
    (newest,) = [entry.key for entry in store.list(PREFIX) if entry.key.endswith("newest")]
    store.put(newest, text)
    assert kept(waypoints(store, claim())) is None


def test_who_may_write_to_the_store_and_knows_no_internal_token_cannot_slip_a_state_in(store: Watched) -> None:
    ways = waypoints(store, claim(token=1), token="another-token-that-somebody-guessed-01")
    ways.keep("training", Checkpoint({"weight": torch.zeros(4)}))
    ways.settle()
    assert kept(waypoints(store, claim())) is None


def test_a_store_that_is_away_costs_what_was_to_be_kept_alone(store: Watched) -> None:
    store.put("a/b", b"so that it is there")
    store.root.rename(store.root.with_name("away"))
    keep(store, 1.0)
    store.root.with_name("away").rename(store.root)
    assert kept(waypoints(store, claim())) is None
