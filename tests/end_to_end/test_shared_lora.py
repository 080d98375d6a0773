"""Models with LoRA that sites share, through the real services: their frozen weights go up once, and all read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.end_to_end.federation import FEDERATION, KINDS, TINY_IMAGE, Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor

from fedafd import PersonalizedModel
from fedafd.agent.ledger import read_sent
from fedafd.datasets import load_client_data, load_public_data, write_public_set
from fedafd.datasets.samples import ImageSplit, PairSplit
from fedafd.domain.kinds import ClientKind

pytestmark = [
    pytest.mark.timeout(560),
    pytest.mark.skipif(find_spec("peft") is None, reason="the extra `lora` is not installed"),
]
ROUNDS = 2
FEW = {"num_train": 16, "num_val": 8, "num_test": 8}
LORA = {"trainable": "lora", "lora": {"rank": 1}}
ENCODERS: dict[str, Any] = {
    "image_encoder": TINY_IMAGE
    | LORA
    | {"options": {"embedding_size": 8, "hidden_sizes": [64, 128], "depths": [1, 1], "layer_type": "basic"}},
    "text_encoder": LORA
    | {
        "architecture": "bert",
        "max_tokens": 16,
        "options": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
    },
}
SITES: dict[str, dict[str, Any]] = {
    name: {"data": {"adapter": "shapes", "options": FEW | {"seed": seed}}, "image_encoder": None, "text_encoder": None}
    for seed, name in enumerate(sorted(KINDS))
}


@pytest.fixture
def trial(tmp_path: Path, redis_url: str) -> Iterator[Trial]:
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        trial = Trial(supervisor, embedded(tmp_path, redis_url.removesuffix("/0") + "/9"), tmp_path, sites=SITES)
        yield trial
        trial.rest.close()


def test_frozen_weights_of_shared_models_go_up_once_and_the_models_predict_as_the_sites_own(
    trial: Trial, tmp_path: Path
) -> None:
    write_public_set(load_public_data("shapes", None, FEW | {"seed": 5}), tmp_path / "public")
    trial.completed_rounds(FEDERATION | ENCODERS, tmp_path / "public", ROUNDS, seconds=180)
    for name in KINDS:
        trial.until(partial(_is_of_the_last_round, tmp_path / name / "model"), f"the model of {name}")
        trial.rest.pull_personalized_model(name, tmp_path / "pulled" / name)
        files = (path for path in (tmp_path / "pulled" / name).rglob("*") if path.is_file())
        whole_bytes = sum(path.stat().st_size for path in files)
        sent = {entry.round: entry.bytes for entry in read_sent(tmp_path / name) if entry.what == "personalized-model"}
        assert sent[ROUNDS] < 0.25 * whole_bytes, (name, sent, whole_bytes)
        assert sent[ROUNDS] < sent[1], "the site's own frozen weights came with the first"
        own, shared = (_answers(name, folder) for folder in (tmp_path / name / "model", tmp_path / "pulled" / name))
        np.testing.assert_array_equal(own, shared)


def _is_of_the_last_round(model: Path) -> bool:
    config = model / "config.json"
    return config.exists() and json.loads(config.read_bytes())["lineage"]["round"] == ROUNDS


def _answers(name: str, folder: Path) -> Any:
    """What a model says of its site's test data."""
    kind = ClientKind(KINDS[name])
    test = load_client_data("shapes", None, kind, SITES[name]["data"]["options"]).test
    model = PersonalizedModel.from_pretrained(folder, device="cpu")
    if isinstance(test, PairSplit):
        return np.concatenate([model.embed_images(test.images), model.embed_texts([c[0] for c in test.captions])])
    samples: Any = test.images if isinstance(test, ImageSplit) else test.texts
    return [probability for _, probability in model.predict(samples)]
