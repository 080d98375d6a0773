"""A classifier's personalized model holds what its site would have had alone, and predicts by what is borne out."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning.test_waypoints import InterruptedHereError, Until
from tests.learning.tiny import (
    shared_files,
    tiny_client,
    tiny_federation,
    tiny_private,
    tiny_recipe,
    tiny_server,
    write_files,
)

from fedafd.domain.config import FederationConfig
from fedafd.domain.errors import DataError, InvalidRequestError, StateUnusableError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.domain.seeds import derive_seed
from fedafd.learning.baseline import train_baseline
from fedafd.learning.branches import BRANCHES, weights_from_json
from fedafd.learning.checkpoint import Checkpoint, tensors_below
from fedafd.learning.client_round import ClientRound, evaluate_client
from fedafd.learning.personalized_model import PersonalizedModel
from fedafd.learning.server_round import Prepared
from fedafd.learning.waypoints import NOWHERE, Waypoints

NAME = "clinic"
CLASSIFIERS = [ClientKind.IMAGE, ClientKind.TEXT]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def prepared() -> Prepared:
    return tiny_server(tiny_federation())[1]


def trained(
    kind: ClientKind, config: FederationConfig, state: bytes | None = None, number: int = 1, **more: Any
) -> ClientRound:
    seed = derive_seed(config.seed, number, NAME, "train")
    given = {"round_number": number, "seed": seed, "compare_on": ("val", "test")} | more
    return tiny_client(kind, config, prepared(), state, **given)


@cache
def two_rounds(kind: ClientKind) -> tuple[ClientRound, ClientRound]:
    config = tiny_federation(client={"local_epochs": 2})
    first = trained(kind, config)
    return first, trained(kind, config, first.state, 2)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_alone_branch_is_the_sites_baseline_bit_for_bit(kind: ClientKind) -> None:
    config, state = tiny_federation(client={"local_epochs": 2}), None
    for number, made in enumerate(two_rounds(kind), 1):
        held = Checkpoint.from_bytes(made.state).nested("alone")
        assert held is not None
        baseline = train_baseline(
            config=config,
            kind=kind,
            image_encoder=None,
            text_encoder=None,
            data=tiny_private(kind),
            client=NAME,
            round_number=number,
            state=state,
            tokenizer=held.meta["tokenizer"],
            device="cpu",
        )
        state = baseline.state
        assert held.to_bytes() == state
        for split in ("val", "test"):
            assert made.views[split]["alone"].metrics == baseline.evaluations[split].metrics
            assert np.array_equal(made.views[split]["alone"].scores, baseline.evaluations[split].scores)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_branch_beside_it_changes_nothing_of_the_federated_training(kind: ClientKind) -> None:
    config = tiny_federation(client={"local_epochs": 2}, fusion={"alone_branch": False})
    plain = trained(kind, config, trained(kind, config).state, 2)
    made = two_rounds(kind)[1]
    own = Checkpoint.from_bytes(plain.state)
    assert own.nested("alone") is None
    found = Checkpoint.from_bytes(made.state)
    for name, tensor in own.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    for modality, rows in plain.representations.items():
        assert np.array_equal(made.representations[modality], rows)
    assert made.metrics["fused/acc1"] == plain.metrics["federated/acc1"]
    assert made.metrics["local/acc1"] == plain.metrics["local/acc1"]
    assert "alone/acc1" not in plain.metrics


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_model_is_the_pool_that_the_validation_split_bears_out(kind: ClientKind) -> None:
    made = two_rounds(kind)[1]
    weights = Checkpoint.from_bytes(made.state).meta["branches"]
    assert set(weights) <= set(BRANCHES)
    assert sum(weights.values()) == pytest.approx(1)
    if weights == {"alone": 1.0}:
        assert made.metrics["federated/acc1"] == made.metrics["alone/acc1"]
    again = evaluate_client(
        config=tiny_federation(client={"local_epochs": 2}),
        kind=kind,
        data=tiny_private(kind),
        global_representations=prepared().representations,
        bundles={m: prepared().bundles[m] for m in kind.modalities},
        state=made.state,
        device="cpu",
    )
    assert again.metrics == made.metrics


def test_pairs_have_no_such_branch() -> None:
    made = trained(ClientKind.PAIR, tiny_federation())
    assert Checkpoint.from_bytes(made.state).nested("alone") is None
    assert {name.partition("/")[0] for name in made.metrics} == {"federated", "local", "global", "gate_offset"}


def test_a_state_of_before_starts_its_branch_now() -> None:
    before = trained(ClientKind.TEXT, tiny_federation(fusion={"alone_branch": False}))
    made = trained(ClientKind.TEXT, tiny_federation(), before.state, 2)
    assert not made.differences
    assert Checkpoint.from_bytes(made.state).nested("alone") is not None
    # And evaluated as it is, it is what it was.
    told = evaluate_client(
        config=tiny_federation(),
        kind=ClientKind.TEXT,
        data=tiny_private(ClientKind.TEXT),
        global_representations=prepared().representations,
        bundles={Modality.TEXT: prepared().bundles[Modality.TEXT]},
        state=before.state,
        device="cpu",
    )
    assert told.metrics == before.metrics


def test_killed_while_the_branch_trains_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = tiny_federation(client={"local_epochs": 3})
    whole = trained(ClientKind.TEXT, config)

    def ways() -> Waypoints:
        return Waypoints(tmp_path, every_seconds=0)

    steps = []
    trained(ClientKind.TEXT, config, progress=lambda f, _: steps.append(f), waypoints=NOWHERE)
    stop = sum(share < 0.75 for share in steps)  # the federated part ends at 0.05 + 0.8 * 0.7
    with pytest.raises(InterruptedHereError):
        trained(ClientKind.TEXT, config, progress=Until(stop), waypoints=ways())
    assert (tmp_path / "alone").is_dir()
    assert trained(ClientKind.TEXT, config, waypoints=ways()).state == whole.state


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_an_exported_model_predicts_as_its_site_measured(kind: ClientKind, tmp_path: Path) -> None:
    made, data = two_rounds(kind)[1], tiny_private(kind)
    for weights in ({"alone": 0.5, "fused": 0.5}, {"alone": 1.0}, {"fused": 0.25, "local": 0.75}):
        state = Checkpoint.from_bytes(made.state)
        state.meta["branches"] = weights
        folder = tmp_path / "-".join(weights)
        model = _exported(folder, kind, state.to_bytes())
        assert model.weights == weights
        told = evaluate_client(
            config=tiny_federation(client={"local_epochs": 2}),
            kind=kind,
            data=data,
            global_representations=prepared().representations,
            bundles={m: prepared().bundles[m] for m in kind.modalities},
            state=state.to_bytes(),
            device="cpu",
        )
        samples: Any = data.test.images if kind is ClientKind.IMAGE else data.test.texts  # type: ignore[union-attr]
        for branch, view in (("personalized", "federated"), ("own", "local"), ("alone", "alone")):
            if branch not in model.branches:
                assert "alone" not in weights
                assert not (folder / "alone").exists()
                with pytest.raises(InvalidRequestError, match="no branch that was trained alone"):
                    model.predict(list(samples)[:1], branch=branch)  # type: ignore[call-overload]
                continue
            names = [name for name, _ in model.predict(list(samples), branch=branch)]
            right = [name == data.labels[int(y)] for name, y in zip(names, data.test.labels, strict=True)]  # type: ignore[union-attr]
            assert 100 * np.mean(right) == pytest.approx(told.metrics[f"{view}/acc1"])


def test_weights_that_nobody_fitted_are_refused_with_the_file(tmp_path: Path) -> None:
    made = Checkpoint.from_bytes(two_rounds(ClientKind.TEXT)[1].state)
    made.meta["branches"] = {"alone": 1.0}
    folder = tmp_path / "model"
    _exported(folder, ClientKind.TEXT, made.to_bytes())
    (folder / "SHA256SUMS").unlink()
    described = json.loads((folder / "config.json").read_bytes())
    for bad in ({}, {"alone": 2.0}, {"fused": 0.5}, {"lone": 1.0}, {"alone": True}, [1.0], {"alone": float("nan")}):
        with pytest.raises(ValueError, match="branches is"):
            weights_from_json(bad)
        (folder / "config.json").write_text(json.dumps(described | {"branches": bad}))
        with pytest.raises(DataError, match=r"config\.json: branches is"):
            PersonalizedModel.from_pretrained(folder, device="cpu")
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "alone" / "head.safetensors").unlink()
    with pytest.raises(DataError, match=r"head\.safetensors"):
        PersonalizedModel.from_pretrained(folder, device="cpu")
    made.meta["branches"] = {"alone": 3}
    with pytest.raises(StateUnusableError, match="weights of its branches"):
        trained(ClientKind.TEXT, tiny_federation(), made.to_bytes(), 3)


def _exported(folder: Path, kind: ClientKind, state: bytes) -> PersonalizedModel:
    recipe = tiny_recipe(kind)
    assert set(tensors_below(Checkpoint.from_bytes(state).tensors, "alone"))
    write_files(shared_files(recipe, state=state, bundles=prepared().bundles), folder)
    return PersonalizedModel.from_pretrained(folder, device="cpu")
