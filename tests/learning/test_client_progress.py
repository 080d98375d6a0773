"""A client's part in a round is heard at work in each of its phases, however slow the machine: batch by batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.learning.tiny import tiny_federation, tiny_private, tiny_public

from fedafd.domain.kinds import ClientKind
from fedafd.domain.leaving import Activity
from fedafd.learning import feeding
from fedafd.learning.client_round import train_client
from fedafd.learning.server_round import initial_server_state, prepare


def test_each_phase_that_encodes_is_heard_after_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(feeding, "_BATCH", 8)
    config, public = tiny_federation(), tiny_public()["train"]
    state = initial_server_state(config=config, captions=public.captions, seed=3)
    made = prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu")
    heard: list[tuple[float, Activity]] = []
    train_client(
        config=config,
        kind=ClientKind.IMAGE,
        image_encoder=None,
        text_encoder=None,
        data=tiny_private(ClientKind.IMAGE),
        public=public,
        global_representations=made.representations,
        bundles=made.bundles,
        state=None,
        round_number=1,
        seed=5,
        device="cpu",
        progress=lambda fraction, activity: heard.append((fraction, activity)),
    )
    shares = [fraction for fraction, _ in heard]
    assert shares == sorted(shares)
    counts = Counter(activity.kind.value for _, activity in heard)
    assert counts["representing the public set"] == 1 + len(public) // 8
    assert counts["evaluating"] > 2
