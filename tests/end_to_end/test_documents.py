"""The operator's and the site's guide, executed word for word but for paths, addresses and the number of rounds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.datasets import makers
from tests.documents import blocks
from tests.end_to_end.federation import Trial, embedded
from tests.end_to_end.supervised import LoggedSupervisor
from tests.servers import wait_until

from fedafd.domain.config import SharingConfig, parse_agent_config, read_agent_config
from fedafd.domain.yaml_files import parse_yaml

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
        before, invite, after = re.split(r"(fedafd client invite [^\n]*\n(?:fedafd client invite [^\n]*\n)*)", block)
        answer = shell(tmp_path, before + invite)
        token = re.search(r"fedafd-enrol\.[\w-]+", answer)
        assert token is not None, answer
        init, check, run, predict = site_commands(tmp_path, token[0])
        makers.image_folder(tmp_path / "xrays", splits=False, per_class=10)
        shell(tmp_path, init, answers=f"y\n{trial.services.aggregator}\n\n")
        assert "Ready to join" in shell(tmp_path, check)
        assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
        with site(tmp_path, run):
            exports = before.splitlines()[0]
            answer = shell(tmp_path, f"{exports}\n{after}")
        assert (tmp_path / "models" / "current" / "config.json").is_file(), answer
        trial.rest.close()
        # The guide's site shares no model; it has its own nevertheless.
        config = read_agent_config(tmp_path / "agent.yaml")
        assert config.share == SharingConfig()
        shutil.copy(next((tmp_path / "xrays").rglob("*.png")), tmp_path / "new-scan.png")
        label, probability, name = shell(tmp_path, predict).strip().split("\t")
        assert label in {each.name for each in (tmp_path / "xrays").iterdir()}
        assert 0 < float(probability) <= 1
        assert name == "new-scan.png"
        assert "## Data" in (config.state_dir / "model" / "README.md").read_text()


def test_the_site_guides_agent_yaml_is_valid_and_shows_the_defaults() -> None:
    (text,) = [block for block in blocks("docs/site.md", "yaml") if "agent.yaml" in block]
    config = parse_agent_config(parse_yaml(text), "docs/site.md")
    assert config.share == SharingConfig()
    assert not config.data.drop_repeats


def site_commands(folder: Path, token: str) -> list[str]:
    """The commands of the site engineer's guide after the first, which installs; for this folder and token."""
    (block,) = [block for block in blocks("docs/site.md", "sh") if "agent init" in block]
    for old, new in (("/data/xrays", str(folder / "xrays")), ("fedafd-enrol....", token)):
        assert old in block
        block = block.replace(old, new)
    install, *commands = block.strip().splitlines()
    assert install.startswith("pip install 'fedafd[agent]'")
    return commands


@contextmanager
def site(folder: Path, command: str) -> Iterator[None]:
    """The agent, from its start until it is asked to stop."""
    with (folder / "site.log").open("w") as log:
        agent = subprocess.Popen(
            ["bash", "-euc", f"exec {command}"],
            cwd=folder,
            env=environment(folder) | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
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


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}


def shell(folder: Path, script: str, *, answers: str = "") -> str:
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment(folder),
        input=answers,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
