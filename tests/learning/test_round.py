"""A seeded tiny round in one process: the same bits twice, state that survives, folders that predict."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.learning.tiny import shared_files
from torch.nn import functional as F

from fedafd import GlobalModel, PersonalizedModel
from fedafd.algorithm.alignment import BiLevelAlignment
from fedafd.datasets.samples import ClientData, PairSplit
from fedafd.datasets.shapes import ShapesOptions, client_data, public_data
from fedafd.domain.config import EncoderConfig, FederationConfig, parse_federation_config
from fedafd.domain.errors import ConfigurationError, DataError, InvalidRequestError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.baseline import train_alone
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_round import ClientRound, train_client
from fedafd.learning.encoders import build_encoder
from fedafd.learning.ensemble import aggregate, fold_state, merge_states
from fedafd.learning.personalized_export import Recipe
from fedafd.learning.regularisers import make_regulariser
from fedafd.learning.server_round import Prepared, distil, evaluate, export_global_model, initial_server_state, prepare
from fedafd.learning.tokens import build_tokenizer, token_ids

TINY_IMAGE = {
    "architecture": "resnet",
    "image_size": 32,
    "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
TINY_TEXT = {"architecture": "bigru", "max_tokens": 16, "options": {"embedding_size": 16, "hidden_size": 16}}


def federation(**changes: object) -> FederationConfig:
    values: dict[str, object] = {
        "name": "tiny",
        "preset": "small",
        "embedding_dim": 16,
        "image_encoder": TINY_IMAGE,
        "text_encoder": TINY_TEXT,
        "server": {"passes": 1, "batch_size": 16},
        "client": {"local_epochs": 1},
        "distillation": {"start_round": 1},
    }
    return parse_federation_config(values | changes)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def public() -> dict[str, PairSplit]:
    return public_data(ShapesOptions(num_train=48, num_val=8, num_test=24, seed=1))


def private(kind: ClientKind) -> ClientData:
    return client_data(kind, ShapesOptions(num_train=40, num_val=16, num_test=24, seed=2))


def prepared(config: FederationConfig, public: dict[str, PairSplit]) -> Prepared:
    state = initial_server_state(config=config, captions=public["train"].captions, seed=3)
    return prepare(config=config, state=state, public=public["train"], round_number=1, seed=4, device="cpu")


def client(
    config: FederationConfig, kind: ClientKind, made: Prepared, public: dict[str, PairSplit], state: bytes | None = None
) -> ClientRound:
    return train_client(
        config=config,
        kind=kind,
        image_encoder=None,
        text_encoder=None,
        data=private(kind),
        public=public["train"],
        global_representations=made.representations,
        bundles=made.bundles,
        state=state,
        round_number=1,
        seed=5,
        device="cpu",
    )


def test_a_seeded_round_gives_the_same_bits_twice(public: dict[str, PairSplit]) -> None:
    def run() -> tuple[object, ...]:
        config = federation()
        made = prepared(config, public)
        clients = [client(config, kind, made, public) for kind in ClientKind]
        states = {
            m: merge_states([fold_state(config, m, c.representations[m], made.representations) for c in holders])
            for m, holders in {Modality.IMAGE: [clients[0], clients[2]], Modality.TEXT: clients[1:]}.items()
        }
        state = distil(
            config=config,
            state=made.state,
            public=public["train"],
            representations=made.representations,
            aggregates={m: aggregate(config, blob) for m, blob in states.items()},
            round_number=1,
            seed=6,
            device="cpu",
        )
        assert state != made.state
        return made.state, made.bundles, [c.state for c in clients], states, state

    assert run() == run()


def test_the_order_in_which_tensors_were_read_changes_no_bit(public: dict[str, PairSplit]) -> None:
    config = federation()
    made = prepared(config, public)
    turned = dataclasses.replace(made, representations=dict(reversed(made.representations.items())))
    assert list(turned.representations) != list(made.representations)
    pair, image = (client(config, kind, made, public) for kind in (ClientKind.PAIR, ClientKind.IMAGE))
    assert client(config, ClientKind.PAIR, turned, public).state == pair.state
    assert client(config, ClientKind.IMAGE, turned, public).state == image.state
    states = [
        distil(
            config=config,
            state=made.state,
            public=public["train"],
            representations=each.representations,
            aggregates=aggregates,
            round_number=1,
            seed=6,
            device="cpu",
        )
        for each, aggregates in (
            (made, pair.representations),
            (turned, dict(reversed(pair.representations.items()))),
        )
    ]
    assert states[0] == states[1]


@pytest.mark.parametrize("kind", ClientKind)
def test_representations_are_unit_rows_of_the_public_set(kind: ClientKind, public: dict[str, PairSplit]) -> None:
    config = federation()
    made = client(config, kind, prepared(config, public), public)
    assert set(made.representations) == set(kind.modalities)
    for rows_ND in made.representations.values():
        assert rows_ND.shape == (48, 16)
        np.testing.assert_allclose(np.linalg.norm(rows_ND, axis=1), 1, atol=1e-5)
    assert all(math.isfinite(value) for value in made.metrics.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"alignment": {"mode": "off"}},
        {"alignment": {"mode": "adversarial"}},
        {"alignment": {"schedule": "separate", "max_gradient_share": None, "centre": False}},
        {"fusion": {"mode": "off"}},
        {"fusion": {"mode": "tokens"}},
        {"fusion": {"inner_norm": True, "zero_init": False, "calibrate_gate": False, "normalise_output": False}},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ClientKind)
def test_every_ablation_runs(changes: dict[str, object], kind: ClientKind, public: dict[str, PairSplit]) -> None:
    config = federation(**changes)
    assert client(config, kind, prepared(config, public), public).metrics


@pytest.mark.parametrize(("share", "depends"), [(0.0, True), (0.5, True), (1.0, False)])
def test_the_own_share_of_the_targets_leaves_the_clients_the_rest(
    share: float, depends: bool, public: dict[str, PairSplit]
) -> None:
    config = federation(distillation={"start_round": 1, "self_share": share})
    made = prepared(config, public)
    states = {
        distil(
            config=config,
            state=made.state,
            public=public["train"],
            representations=made.representations,
            aggregates={m: np.roll(rows, shift, axis=0) for m, rows in made.representations.items()},
            round_number=1,
            seed=6,
            device="cpu",
        )
        for shift in (0, 1)
    }
    assert len(states) == 1 + depends


def test_initial_passes_come_once_before_the_first_rounds(public: dict[str, PairSplit]) -> None:
    def trained(round_number: int, **server: int) -> bytes:
        config = federation(server={"batch_size": 16, "schedule": "constant", **server})
        state = initial_server_state(config=config, captions=public["train"].captions, seed=3)
        return prepare(
            config=config, state=state, public=public["train"], round_number=round_number, seed=4, device="cpu"
        ).state

    assert trained(1, passes=1, initial_passes=2) == trained(1, passes=3)
    assert trained(2, passes=1, initial_passes=2) == trained(2, passes=1)


@pytest.mark.parametrize("mode", ["pairing", "contrastive", "digest"])
def test_public_weight_multiplies_what_public_batches_add(mode: str) -> None:
    generator = torch.Generator().manual_seed(7)
    reps = {m: F.normalize(torch.randn(12, 8, generator=generator), dim=-1) for m in Modality}
    features = {Modality.TEXT: F.normalize(torch.randn(4, 8, generator=generator), dim=-1)}
    added = []
    for weight in (1.0, 16.0):
        regularise = make_regulariser(
            federation(alignment={"mode": mode}).alignment,
            global_reps=reps,
            alignment=BiLevelAlignment(8),
            discriminators=torch.optim.SGD(torch.nn.Linear(1, 1).parameters()),
            previous=reps,
            weight=weight,
        )
        assert regularise is not None
        joint = regularise(features, torch.arange(4)).joint
        assert joint is not None
        added.append(joint)
    torch.testing.assert_close(added[1], 16 * added[0])
    assert added[0] > 0


@pytest.mark.parametrize(
    "changes",
    [{"distillation": {"start_round": 1}}, {"distillation": {"start_round": 2}}, {"distillation": {"enabled": False}}],
    ids=str,
)
def test_a_round_that_distils_nothing_still_makes_its_public_passes(
    changes: dict[str, object], public: dict[str, PairSplit]
) -> None:
    def distilled(joint: bool) -> tuple[Prepared, bytes]:
        config = federation(distillation={**changes["distillation"], "joint": joint})  # type: ignore[dict-item]
        made = prepared(config, public)
        state = distil(
            config=config,
            state=made.state,
            public=public["train"],
            representations=made.representations,
            aggregates={} if changes == {"distillation": {"start_round": 1}} else made.representations,
            round_number=1,
            seed=6,
            device="cpu",
        )
        return made, state

    made, alone = distilled(joint=False)
    assert alone == made.state
    made, joint = distilled(joint=True)
    assert joint != made.state


def test_state_survives_its_bytes_and_training_goes_on_from_it(public: dict[str, PairSplit]) -> None:
    config = federation()
    made = prepared(config, public)
    first = client(config, ClientKind.PAIR, made, public)
    assert Checkpoint.from_bytes(first.state).to_bytes() == first.state
    second = client(config, ClientKind.PAIR, made, public, first.state)
    assert second.state != first.state
    assert second.state == client(config, ClientKind.PAIR, made, public, first.state).state


def test_a_damaged_state_is_refused() -> None:
    with pytest.raises(DataError, match="not a readable state"):
        Checkpoint.from_bytes(b"\x00" * 40)


def test_global_folder_embeds_as_the_trained_model_does(public: dict[str, PairSplit], tmp_path: Path) -> None:
    config = federation()
    made = prepared(config, public)
    metrics = evaluate(config=config, state=made.state, samples=public["test"], device="cpu").metrics
    files = export_global_model(config=config, state=made.state, metrics=metrics, lineage={"round": 1})
    _write(files, tmp_path)
    model = GlobalModel.from_pretrained(tmp_path)
    images = [Image.fromarray(image) for image in public["train"].images]
    np.testing.assert_allclose(model.embed_images(images), made.representations[Modality.IMAGE], atol=1e-5)
    texts = [captions[0] for captions in public["train"].captions]
    np.testing.assert_allclose(model.embed_texts(texts), made.representations[Modality.TEXT], atol=1e-5)
    assert "rsum" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("kind", ClientKind)
def test_personalized_folder_is_complete(kind: ClientKind, public: dict[str, PairSplit], tmp_path: Path) -> None:
    config = federation()
    made = prepared(config, public)
    result = client(config, kind, made, public)
    recipe = Recipe(config=config, kind=kind, metrics=result.metrics, lineage={})
    files = shared_files(recipe, state=result.state, bundles=made.bundles)
    _write(files, tmp_path)
    model = PersonalizedModel.from_pretrained(tmp_path)
    images = [Image.fromarray(image) for image in public["test"].images]
    assert model.kind == kind.value
    if kind is ClientKind.PAIR:
        assert model.embed_images(images).shape == (24, 16)
        with pytest.raises(InvalidRequestError, match="it has no labels"):
            model.predict(["a"])
        return
    test = private(kind).test
    samples = [Image.fromarray(i) for i in test.images] if kind is ClientKind.IMAGE else list(test.texts)  # type: ignore[union-attr]
    right = [label == model.labels[t] for (label, _), t in zip(model.predict(samples), test.labels, strict=True)]  # type: ignore[union-attr]
    assert 100 * sum(right) / len(right) == pytest.approx(result.metrics["federated/acc1"], abs=1e-3)


def test_training_alone_has_no_federation_in_it() -> None:
    last = train_alone(
        config=federation(),
        kind=ClientKind.TEXT,
        image_encoder=None,
        text_encoder=None,
        data=private(ClientKind.TEXT),
        rounds=2,
        client="site",
        device="cpu",
    )
    assert set(last.evaluations["test"].metrics) == {"acc1", "acc5", "own_acc1"}


@pytest.mark.parametrize(
    ("architecture", "options", "modality"),
    [
        ("convnextv2", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, Modality.IMAGE),
        (
            "vit",
            {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "patch_size": 8,
            },
            Modality.IMAGE,
        ),
        (
            "bert",
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
            Modality.TEXT,
        ),
        ("distilbert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}, Modality.TEXT),
    ],
)
def test_every_architecture_encodes_and_loads_from_a_folder(
    architecture: str, options: dict[str, object], modality: Modality, tmp_path: Path
) -> None:
    config = EncoderConfig(architecture=architecture, options=options, image_size=32)
    encoder = build_encoder(config, modality, dim=8, vocabulary=50).eval()
    batch = torch.randn(3, 3, 32, 32) if modality is Modality.IMAGE else torch.tensor([[2, 3, 0], [4, 0, 0], [5, 6, 7]])
    rows = encoder(batch).vector_BD
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(3))
    encoder.backbone.model.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    again = build_encoder(
        config.model_copy(update={"pretrained": str(tmp_path)}), modality, dim=8, vocabulary=50
    ).eval()
    again.projection.load_state_dict(encoder.projection.state_dict())
    torch.testing.assert_close(again(batch).vector_BD, rows)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    config = EncoderConfig(architecture="resnet", pretrained=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="nowhere"):
        build_encoder(config, Modality.IMAGE, dim=8)


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="bert, bigru"):
        build_encoder(EncoderConfig(architecture="gpt"), Modality.TEXT, dim=8)


def test_the_tokenizer_depends_on_the_texts_alone() -> None:
    one, two = build_tokenizer(["b a a", "c"]), build_tokenizer(["c", "a b a"])
    assert one.to_str() == two.to_str()
    assert token_ids(one, ["A unknown", ""], 4).tolist() == [[2, 1, 0, 0], [1, 0, 0, 0]]


def _write(files: dict[str, bytes], folder: Path) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
