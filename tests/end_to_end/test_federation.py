"""A whole federation of real processes: rounds without agents, with one that is killed, with one that is poisoned."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.federation import FEDERATION, KINDS, Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import Minio

from fedafd.datasets import load_public_data, write_public_set
from fedafd.domain.process_errors import ControlPlaneError
from fedafd.local.services import Backends
from fedafd.storage.s3 import S3Store

pytestmark = pytest.mark.timeout(900)
AT_WORK = ("training", "delivered")
"""What a fast machine trains between two writes of its progress is delivered when it is first heard of."""


@pytest.fixture(params=["embedded", "servers"])
def backends(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Backends:
    """SQLite and a folder; or PostgreSQL and MinIO. Redis is real in both, each test in a database of its own."""
    redis = redis_url.removesuffix("/0") + ("/1" if request.param == "embedded" else "/2")
    if request.param == "embedded":
        return embedded(tmp_path, redis)
    minio: Minio = request.getfixturevalue("minio")
    bucket = f"b{uuid.uuid4().hex}"
    keys: dict[str, Any] = {"access_key": minio.access_key, "secret_key": minio.secret_key}
    S3Store(endpoint=minio.endpoint, bucket=bucket, secure=False, **keys).make_bucket()
    settings = {"URL": f"s3://{bucket}", "ENDPOINT": minio.endpoint, "SECURE": "false"}
    settings |= {name.upper(): value for name, value in keys.items()}
    return Backends(database_url=request.getfixturevalue("postgres_url"), redis_url=redis, store=settings)


@pytest.fixture
def trial(tmp_path: Path, backends: Backends) -> Iterator[Trial]:
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        trial = Trial(supervisor, backends, tmp_path)
        public = load_public_data("shapes", None, {"num_train": 64, "num_val": 16, "num_test": 32, "seed": 5})
        write_public_set(public, tmp_path / "public-set")
        trial.rest.create(FEDERATION)
        trial.rest.push_public_set(tmp_path / "public-set")
        trial.invite_all()
        yield trial
        trial.rest.close()


def test_rounds_complete_although_an_agent_is_killed_and_another_is_poisoned(trial: Trial, tmp_path: Path) -> None:
    trial.rest.start_rounds(1)
    with pytest.raises(ControlPlaneError, match="no client is enrolled"):
        trial.rest.wait_for_round(1, lambda _: None, seconds=120)

    agents = {name: trial.start_agent(name) for name in KINDS}
    trial.until(lambda: all(c["state"] == "enrolled" for c in trial.rest.clients()), "the agents")
    trial.rest.start_rounds(2)
    trial.until(lambda: _participation(trial, 2, "pairs").get("state") in AT_WORK, "the pair client's training")
    trial.kill(agents["pairs"])
    trial.start_agent("pairs")
    rounds = [trial.rest.wait_for_round(number, lambda _: None, seconds=300) for number in (2, 3)]

    for answer in rounds:
        assert {p["client"]: p["state"] for p in answer["participations"]} == dict.fromkeys(KINDS, "delivered")
        assert all(p["bytes_up"] > 0 and p["bytes_down"] > 0 for p in answer["participations"])
        assert answer["metrics"] is not None
        assert 0 <= answer["metrics"]["rsum"] <= 600
    kinds = [event["kind"] for event in trial.rest.events()]
    assert kinds.count("model.published") == 2
    assert kinds.count("participation.delivered") == 6
    assert kinds.count("client.enrolled") == 3

    trial.rest.pull_global_model(tmp_path / "global")
    trial.rest.pull_personalized_model("texts", tmp_path / "texts-model")
    assert _predicted_in_a_fresh_process(tmp_path / "texts-model", tmp_path / "global")

    _try_versions(trial)

    # A poisoned upload is rejected, and the round goes on.
    trial.kill(agents["images"])
    trial.start_agent("images", module="tests.end_to_end.poisoned_agent")
    trial.rest.start_rounds(1)
    answer = trial.rest.wait_for_round(4, lambda _: None, seconds=300)
    found = {p["client"]: p for p in answer["participations"]}
    assert found["images"]["state"] == "rejected"
    assert "not finite" in str(found["images"]["reason"])
    assert [found[name]["state"] for name in ("pairs", "texts")] == ["delivered", "delivered"]


def _try_versions(trial: Trial) -> None:
    """A query worker finds public pictures by a caption, and captions by what it found, in the trained versions."""
    with pytest.raises(ControlPlaneError, match="start one with `fedafd queries`"):
        trial.rest.search(caption="a large red circle")
    worker = trial.services.start_queries()
    trial.until(lambda: "queries.started" in worker.log.read_text(), "the query worker")
    answers = [trial.rest.search(version, caption="a large red circle", top_k=5) for version in ("current", "2")]
    assert [answer["version"] for answer in answers] == [3, 2]
    assert [answer["num_searched"] for answer in answers] == [112, 112]
    assert answers[0]["hits"] != answers[1]["hits"], "another training, another likeness"
    picture = base64.b64decode(answers[0]["hits"][0]["thumbnail"] or "")
    captions = trial.rest.search(image=picture, top_k=24)
    assert len({hit["captions"][0] for hit in captions["hits"]}) == 24
    assert "red circle" not in worker.log.read_text()
    worker.process.terminate()
    assert worker.process.wait(30) == 0
    trial.supervisor.forget(worker)


def _participation(trial: Trial, number: int, client: str) -> Mapping[str, Any]:
    return next((p for p in trial.rest.round(number)["participations"] if p["client"] == client), {})


def _predicted_in_a_fresh_process(personalized: Path, global_: Path) -> bool:
    code = (
        "import json, sys; from fedafd import GlobalModel, PersonalizedModel\n"
        "p = PersonalizedModel.from_pretrained(sys.argv[1]); g = GlobalModel.from_pretrained(sys.argv[2])\n"
        "(label, odds), = p.predict(['we saw something red , it is round all over'])\n"
        "print(json.dumps([label in p.labels, 0 < odds <= 1, p.kind, list(g.embed_texts(['a red circle']).shape)]))"
    )
    command = [sys.executable, "-c", code, str(personalized), str(global_)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return bool(json.loads(done.stdout) == [True, True, "text", [1, FEDERATION["embedding_dim"]]])
