"""Two regions of three sites each, through real servers: they give what the flat federation of six gives."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load
from tests.end_to_end.federation import FEDERATION
from tests.region.conftest import Levels
from tests.region.world import UPPER, site_values, whole_region

from fedafd.datasets import PublicSet, load_client_data
from fedafd.domain.config import EncoderConfig, FederationConfig, parse_federation_config, stored_federation_config
from fedafd.domain.kinds import ClientKind, Modality, StageKind
from fedafd.learning.ensemble import aggregate, fold_state, merge_states
from fedafd.persistence.stage_repository import list_stages
from fedafd.simulation.federation import Federation, FederationProgress, SimulatedClient

REGIONS = {
    "north": {"a-images": "image", "b-pairs": "pair", "c-texts": "text"},
    "south": {"d-images": "image", "e-pairs": "pair", "f-texts": "text"},
}


def flat(public: PublicSet, config: FederationConfig) -> FederationProgress:
    """The same six sites in one federation. Services give the simulation's bits (end_to_end/test_strategies.py)."""
    clients = []
    for sites in REGIONS.values():
        for name, kind in sites.items():
            values = site_values(name, kind)
            held = ("image_encoder", "text_encoder")
            encoders: dict[str, Any] = {key: EncoderConfig.model_validate(values[key]) for key in held if key in values}
            data = load_client_data("shapes", None, ClientKind(kind), values["data"]["options"])
            clients.append(SimulatedClient(name=name, kind=ClientKind(kind), data=data, **encoders))
    splits = {split: public.split(split) for split in ("train", "val", "test")}
    federation = Federation(config, splits, clients, device="cpu", public_set_sha256=public.manifest.sha256)
    return federation.run_round(FederationProgress())


async def targets(levels: Levels, number: int) -> dict[Modality, NDArray[np.float32]]:
    """What the upper round distils."""
    row, _ = await levels.above.round("upper", number)
    async with levels.above.database.snapshot() as session:
        (stage,) = [s for s in await list_stages(session, row.id) if s.kind == StageKind.DISTIL]
    config = stored_federation_config(row.config)
    return {m: aggregate(config, levels.above.store.get(stage.inputs[f"sed-state/{m.value}"]["key"])) for m in Modality}


def folded(config: FederationConfig, progress: FederationProgress, modality: Modality) -> NDArray[np.float32]:
    """What the flat federation distils, of what its clients sent."""
    sent = [progress.uploads[name][modality] for name in sorted(progress.uploads) if modality in progress.uploads[name]]
    states = [fold_state(config, modality, reps, progress.representations) for reps in sent]
    return aggregate(config, merge_states(states))


async def test_two_regions_of_three_sites_equal_the_flat_federation_of_six(levels: Levels, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    async with AsyncExitStack() as stack:
        for name, sites in REGIONS.items():
            token = await levels.above.invite("upper", name, "region", max_clients=3)
            await stack.enter_async_context(
                whole_region(tmp_path / name, levels.above, levels.below, name, sites, token)
            )
        number = await levels.above.start_round("upper")
        row = await levels.above.over("upper", number)
        assert (row.state, row.reason) == ("completed", None)
        for name, sites in REGIONS.items():
            below = await levels.below.over(name, number, seconds=30)
            assert (below.state, below.upstream_round_id) == ("completed", row.id)
            assert row.deadline_at is not None
            assert below.deadline_at is not None
            assert below.deadline_at < row.deadline_at
            _, parts = await levels.below.round(name, number)
            assert {site: part.state for site, part in parts.items()} == dict.fromkeys(sites, "delivered")

    _, parts = await levels.above.round("upper", number)
    counts: dict[str, Any] = {name: part.region_clients for name, part in parts.items()}
    assert counts == {name: {"total": 3, "image": 2, "text": 2} for name in REGIONS}
    config = parse_federation_config(FEDERATION | UPPER)
    expected, found = flat(PublicSet.open(levels.public), config), await targets(levels, number)
    for modality in Modality:
        np.testing.assert_allclose(found[modality], folded(config, expected, modality), rtol=0, atol=2e-6)
    assert expected.server_state is not None
    ours, theirs = load(await server_state(levels, number)), load(expected.server_state)
    assert ours.keys() == theirs.keys()
    for tensor, value in theirs.items():
        np.testing.assert_allclose(ours[tensor].astype(np.float64), value.astype(np.float64), rtol=1e-3, atol=1e-4)


async def server_state(levels: Levels, number: int) -> bytes:
    row, _ = await levels.above.round("upper", number)
    async with levels.above.database.snapshot() as session:
        (stage,) = [s for s in await list_stages(session, row.id) if s.kind == StageKind.EVALUATE]
    return levels.above.store.get((stage.outputs or {})["server-state"]["key"])
