"""Model cards are read by the hub's own library, their code runs, and a shared one tells nothing of a site's data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.learning.tiny import personalized_folder, tiny_federation, tiny_global, write_files

from fedafd.domain.config import FederationConfig
from fedafd.domain.kinds import ClientKind
from fedafd.learning.model_card import SiteFacts, global_card, personalized_card

METRICS = {
    "federated/acc1": 71.25,
    "federated/own_acc1": 70.0,
    "local/acc1": 60.0,
    "global/acc1": 50.0,
    "gate_offset/image": 0.3,
}
FACTS = SiteFacts(samples={"train": 4711, "val": 42, "test": 43}, classes={"round": 4000, "square": 711})


def _data(card: ModelCard) -> ModelCardData:
    assert isinstance(card.data, ModelCardData)
    return card.data


def results(card: ModelCard) -> dict[str, EvalResult]:
    return {str(result.metric_name): result for result in _data(card).eval_results or []}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[ClientKind | None, Path]:
    """A model's folder of each kind, and the global model's under None."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    write_files(tiny_global(), root / "global")
    made: dict[ClientKind | None, Path] = {None: root / "global"}
    for kind in ClientKind:
        made[kind] = personalized_folder(kind, root / kind.value, metrics=METRICS, facts=FACTS)
    return made


@pytest.mark.parametrize("kind", [*ClientKind, None], ids=str)
def test_the_hubs_library_reads_the_card(kind: ClientKind | None, folders: dict[ClientKind | None, Path]) -> None:
    card = ModelCard.load(folders[kind] / "README.md")
    assert _data(card).library_name == "fedafd"
    assert card.data.license == "other"
    assert {"federated-learning", "arxiv:2603.04890"} <= set(card.data.tags or [])
    wanted = {ClientKind.IMAGE: "image-classification", ClientKind.TEXT: "text-classification"}
    assert card.data.pipeline_tag == wanted.get(kind, "feature-extraction")  # type: ignore[arg-type]
    assert len(results(card)) == (1 if kind is None else 4)
    assert set(card.data.metrics) == {result.metric_type for result in results(card).values()}


def test_the_code_of_every_card_runs(folders: dict[ClientKind | None, Path]) -> None:
    """In one process, since most of its time goes into imports; each code has names of its own."""
    script = "import os\n"
    for folder in folders.values():
        (code,) = re.findall(r"```python\n(.*?)```", ModelCard.load(folder / "README.md").text, re.DOTALL)
        script += f"os.chdir({str(folder)!r})\nexec({code!r}, {{}})\nprint('ran')\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ran") == len(ClientKind) + 1


def test_a_shared_card_says_nothing_of_the_data() -> None:
    def card(facts: SiteFacts | None, metrics: dict[str, float]) -> str:
        labels = ["round", "square"]
        return personalized_card(
            tiny_federation(), ClientKind.IMAGE, labels, metrics=metrics, lineage={"round": 3}, facts=facts
        )

    own, shared, silent = card(FACTS, METRICS), card(None, METRICS), card(None, {})
    assert "- train: 4711 samples" in own and "- round: 4000" in own
    assert not re.search(r"4711|4000|\b42\b", shared)
    assert "71.25" in shared
    assert not re.search(r"71\.25|## Metrics|## Data", silent)
    assert _data(ModelCard(silent)).eval_results is None
    assert "- round\n- square" in silent


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.text(min_size=1), min_size=1, max_size=4), federation=st.text(min_size=1, max_size=20))
def test_any_name_is_shown_as_it_is_and_breaks_no_card(names: list[str], federation: str) -> None:
    config: Any = tiny_federation().model_copy(update={"name": federation})
    for text in (
        personalized_card(config, ClientKind.TEXT, names, metrics=METRICS, lineage={"round": 1}),
        global_card(config, metrics={"rsum": 1.0}, lineage={"version": 2}),
    ):
        card = ModelCard(text)
        assert _data(card).library_name == "fedafd"
        assert set(yaml.safe_load(text.split("---\n")[1])) >= {"library_name", "license", "model-index"}
        headings = [line for line in card.text.splitlines() if line.startswith("#")]
        assert sorted({line.split(" ")[0] for line in headings}) == ["#", "##"]
        assert len([line for line in headings if line.startswith("# ")]) == 1


def test_results_are_in_percent_and_named_by_what_was_measured() -> None:
    text = personalized_card(tiny_federation(), ClientKind.IMAGE, ["a", "b"], metrics=METRICS, lineage={})
    found = results(ModelCard(text))
    assert found["federated/acc1 (personalized model, percent)"].metric_value == 71.25
    assert found["global/acc1 (frozen global encoder alone, percent)"].metric_type == "accuracy"
    assert all(result.dataset_type == "private" for result in found.values())


def test_a_global_card_has_errors_limits_and_the_configuration_and_an_error_is_no_result() -> None:
    metrics = {"rsum": 321.5, "rsum_standard_error": 4.25, "i2t_r1": 40.0}
    config = tiny_federation()
    card = global_card(config, metrics=metrics, lineage={"round": 3})
    assert "| rsum | 321.50 ± 4.25 |" in card
    assert "| i2t\\_r1 | 40.00 |" in card
    assert "standard_error |" not in card.replace("\\", "")
    for title in ("## Intended use", "## Limits", "## Lineage"):
        assert title in card
    (told,) = re.findall(r"```json\n(.*?)\n```", card, re.DOTALL)
    assert FederationConfig.model_validate(json.loads(told)) == config
    assert len(_data(ModelCard(card)).eval_results or []) == 2
