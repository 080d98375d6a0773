"""Sites of a region that deceive it: the region goes on without what they sent, and so does the upper federation."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.region.conftest import Levels
from tests.region.test_region import ScriptedSite
from tests.region.world import agent, at_work, region

from fedafd.agent.training import LocalResult, LocalTask
from fedafd.artifacts.manifest import read_manifest
from fedafd.artifacts.representations import decode_global_representations, encode_representations
from fedafd.domain.kinds import Modality
from fedafd.domain.states import ParticipationState


class CopyingSite(ScriptedSite):
    """Sends the global representations back."""

    def train(self, task: LocalTask, progress: Any) -> LocalResult:
        rows = decode_global_representations(
            task.global_representations.read_bytes(),
            num_samples=read_manifest(task.manifest.read_bytes()).num_samples(),
            embedding_dim=task.config.embedding_dim,
            public_set_sha256=task.public_set_sha256,
            dtype=task.config.wire_dtype,
        )
        centred = rows[Modality.IMAGE] - rows[Modality.IMAGE].mean(axis=0) * task.config.distillation.centre
        copied = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        sent = encode_representations({Modality.IMAGE: copied}, task.public_set_sha256, task.config.wire_dtype)
        return LocalResult(
            representations=sent, state=b"state", personalized_model=None, metrics={}, num_private_samples=3
        )


async def test_a_site_that_copies_is_left_out_by_its_region_and_does_not_take_the_others_out_of_the_upper_round(
    levels: Levels, tmp_path: Path
) -> None:
    """The region counted it among its clients, whose states held one less: the upper federation refused the region."""
    above, below = levels.above, levels.below
    sites = {"a": ScriptedSite("a"), "b": ScriptedSite("b"), "copies": CopyingSite("copies")}
    await below.federation("north")
    async with AsyncExitStack() as stack:
        for name, site in sites.items():
            site.may_end.set()
            token = await below.invite("north", name, "image")
            run = partial(agent, tmp_path / name, below, name, "image", token, trainer=site)
            await stack.enter_async_context(at_work(run))
        token = await above.invite("upper", "north", "region", max_clients=3)
        await stack.enter_async_context(at_work(partial(region, tmp_path / "region", above, below, "north", token)))
        over = await above.over("upper", await above.start_round("upper"))
        own = await below.over("north", 1, seconds=30)
        parts = (await below.round("north", 1))[1]
    assert own.config["distillation"] == over.config["distillation"]
    assert parts["copies"].contributions is not None
    assert parts["copies"].contributions["image"]["left_out"]
    part = (await above.round("upper", 1))[1]["north"]
    assert (part.state, part.reason) == (ParticipationState.DELIVERED, None)
    assert (over.state, own.state, own.reason) == ("completed", "completed", None)
    assert part.region_clients == {"total": 2, "image": 2}
