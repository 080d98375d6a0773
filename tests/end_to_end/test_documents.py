"""The operator's and the site's guide, executed word for word but for paths, addresses and the number of rounds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.datasets import makers
from tests.documents import blocks
from tests.end_to_end.federation import Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import wait_until

from fedafd import PersonalizedModel

pytestmark = pytest.mark.timeout(900)


def test_the_guides_commands_make_a_federation_that_trains(tmp_path: Path, redis_url: str) -> None:
    redis = redis_url.removesuffix("/0") + "/3"
    backends = embedded(tmp_path, redis)
    with LoggedSupervisor(tmp_path / "logs") as supervisor:
        trial = Trial(supervisor, backends, tmp_path)
        (tmp_path / ".fedafd-key").write_text(trial.services.api_key)
        (tmp_path / ".fedafd-key").chmod(0o600)
        (tmp_path / "federation.yaml").write_text("name: lungs\npreset: small\n")
        makers.karpathy(tmp_path / "flickr30k", counts=(20, 4, 4))
        (block,) = [block for block in blocks("docs/operator.md", "sh") if "federation create" in block]
        for old, new in (
            ("http://127.0.0.1:8080", trial.services.url),
            ("/data/flickr30k", str(tmp_path / "flickr30k")),
            ("--rounds 10", "--rounds 1"),
        ):
            assert old in block
            block = block.replace(old, new)
        before, invite, after = re.split(r"(fedafd client invite [^\n]*\n)", block)
        answer = shell(tmp_path, before + invite)
        token = re.search(r"fedafd-enrol\.[\w-]+", answer)
        assert token is not None, answer
        with site(tmp_path, trial.services.aggregator, token[0]):
            exports = before.splitlines()[0]
            answer = shell(tmp_path, f"{exports}\n{after}")
        assert (tmp_path / "models" / "current" / "config.json").is_file(), answer
        trial.rest.close()
        # The guide's site shares no model; it has its own nevertheless.
        model = PersonalizedModel.from_pretrained(tmp_path / "site" / "model")
        ((label, _),) = model.predict([next((tmp_path / "xrays").rglob("*.png"))])
        assert label in model.labels
        assert "## Data" in (tmp_path / "site" / "model" / "README.md").read_text()


@contextmanager
def site(folder: Path, aggregator: str, token: str) -> Iterator[None]:
    """The agent of the site engineer's guide, from its agent.yaml, until it is asked to stop."""
    (text,) = [block for block in blocks("docs/site.md", "yaml") if "agent.yaml" in block]
    config: dict[str, Any] = yaml.safe_load(text)
    makers.image_folder(folder / "xrays", splits=False, per_class=10)
    config["data"]["path"] = str(folder / "xrays")
    config |= {"aggregator": aggregator, "state_dir": str(folder / "site"), "threads": 1}
    (folder / "agent.yaml").write_text(yaml.safe_dump(config))
    with (folder / "site.log").open("w") as log:
        command = [sys.executable, "-m", "fedafd.cli.main", "agent", "run", "--config", "agent.yaml", "--token", token]
        agent = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(
            lambda: "agent.enrolled" in (folder / "site.log").read_text() or agent.poll() is not None, "the site", 240
        )
        assert agent.poll() is None, (folder / "site.log").read_text()
        yield
    finally:
        agent.terminate()
        status = agent.wait(120)
    assert status == 0


def shell(folder: Path, script: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
