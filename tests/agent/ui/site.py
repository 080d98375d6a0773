"""A site for tests of its page: data, and what an agent leaves in its state folder after two delivered rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.datasets.makers import image_folder, picture
from tests.learning.tiny import personalized_folder

from fedafd.agent.history import History
from fedafd.agent.kept_scores import KeptScores
from fedafd.agent.ledger import Ledger
from fedafd.agent.state import Credential, StateDirectory
from fedafd.datasets import load_client_data
from fedafd.datasets.samples import ClientData
from fedafd.domain.config import AgentConfig, parse_agent_config
from fedafd.domain.kinds import ClientKind, ParticipantKind, UploadPurpose
from fedafd.learning.evaluation import Evaluation

VIEWS = ("local", "global", "federated")
SHAPES = {"num_train": 40, "num_val": 16, "num_test": 24, "seed": 2}


def site_config(root: Path, kind: ClientKind, **changes: Any) -> AgentConfig:
    """A site whose agent has never run."""
    values: dict[str, Any] = {
        "aggregator": "127.0.0.1:1",
        "kind": kind.value,
        "state_dir": str(root / "state"),
        "data": {"adapter": "shapes", "options": SHAPES},
        "device": "cpu",
        "threads": 1,
    }
    return parse_agent_config(values | changes)


def picture_site(root: Path, **changes: Any) -> AgentConfig:
    """Cats and dogs in a folder."""
    folder = image_folder(root / "data", splits=True)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        path.write_bytes(picture(number))
    return site_config(root, ClientKind.IMAGE, data={"adapter": "image-folder", "path": str(folder)}, **changes)


def lead_model_to(config: AgentConfig, number: int) -> Path:
    """A model of round `number`, as `state_dir/model`."""
    root = config.state_dir
    folder = personalized_folder(config.kind, root / "models" / f"round-{number}-0", lineage={"round": number})
    link = root / "model"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.relative_to(root), target_is_directory=True)
    return folder


def after_two_rounds(config: AgentConfig, *, model: bool = True) -> AgentConfig:
    """Enrolled, with two rounds delivered and what left for them on record."""
    state, ledger = StateDirectory(config.state_dir), Ledger(config.state_dir)
    state.save_credential(
        Credential(
            federation_id="f1", client_id="c1", client_name="north", kind=ParticipantKind(config.kind), secret="s3cret"
        )
    )
    data = load_client_data(config.data.adapter, config.data.path, config.kind, config.data.options, None)
    ledger.record("enrolment", sha256="e" * 64, size_bytes=52, round_number=0)
    metric = "rsum" if config.kind is ClientKind.PAIR else "acc1"
    for number in (1, 2):
        figures = {f"{view}/{metric}": 50.0 + number + n for n, view in enumerate(VIEWS)}
        pending = state.save_pending(
            round_id=f"r{number}",
            round_number=number,
            task_key="key",
            metrics=figures,
            num_private_samples=40,
            state=b"state",
            blobs={UploadPurpose.REPRESENTATIONS: b"reps"},
            scores=_scores(data, metric, number).to_bytes(),
        )
        ledger.record("representations", sha256=f"{number}" * 64, size_bytes=2**20, round_number=number)
        told = json.dumps({"metrics": figures})
        ledger.record("metrics", sha256="a" * 64, size_bytes=len(told), round_number=number, detail=told)
        state.promote(pending)
        History(config.state_dir).follow(state)
    if model:
        lead_model_to(config, 2)
    return config


def _scores(data: ClientData, metric: str, number: int) -> KeptScores:
    """Round 1: the personalized model is the best one on every sample; round 2: the worst."""
    better = {"local": 2.0, "global": 1.0, "federated": 3.0 if number == 1 else 0.0}
    noise = np.random.default_rng(number).normal(size=(3, len(data.test))) / 10
    scores = {view: 50 + better[view] + noise[n] for n, view in enumerate(VIEWS)}
    views = {view: Evaluation({metric: 50 + better[view]}, each) for view, each in scores.items()}
    return KeptScores.of(data, {"test": views})
