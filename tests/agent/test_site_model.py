"""The site has its model after every delivered round: whole at any moment, of the state's round, whatever it shares."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from tests.learning.tiny import tiny_bundles, tiny_recipe, tiny_state
from tests.servers import wait_until

from fedafd import PersonalizedModel
from fedafd.agent.cache import ArtifactCache
from fedafd.agent.site_model import SiteModel
from fedafd.agent.state import StateDirectory
from fedafd.domain.kinds import ClientKind, Modality, UploadPurpose
from fedafd.learning.model_folder import read_whole

KIND = ClientKind.TEXT


@cache
def made() -> tuple[bytes, bytes]:
    """A client's state, and the server's encoder."""
    bundles = tiny_bundles()
    return tiny_state(KIND, bundles), bundles[Modality.TEXT]


class Site:
    """A state directory with downloads, as an agent leaves it after a round."""

    def __init__(self, root: Path) -> None:
        torch.set_num_threads(1)
        self.state, self.cache = StateDirectory(root), ArtifactCache(root / "artifacts", limit_bytes=1 << 30)
        self.model = SiteModel(root)
        kept = [root.with_name("made.state"), root.with_name("made.bundle")]
        if not kept[0].exists():
            for path, content in zip(kept, made(), strict=True):
                path.write_bytes(content)
        self.bytes, bundle = (path.read_bytes() for path in kept)
        self.sha256 = hashlib.sha256(bundle).hexdigest()
        self.bundle = root / "artifacts" / self.sha256
        self.bundle.write_bytes(bundle)

    def deliver(self, number: int, *, accepted: bool = True) -> None:
        recipe = tiny_recipe(KIND, lineage={"round": number})
        pending = self.state.save_pending(
            round_id=f"r{number}",
            round_number=number,
            task_key="key",
            metrics={},
            num_private_samples=1,
            state=self.bytes,
            blobs={UploadPurpose.REPRESENTATIONS: b"reps"},
            model_source={"recipe": recipe.to_json(), "bundles": {"text": self.sha256}},
        )
        if accepted:
            self.state.promote(pending)
        else:
            self.state.discard_pending()
        self.model.refresh(self.state, self.cache)

    def round_of_model(self) -> int:
        PersonalizedModel.from_pretrained(self.state.root / "model", device="cpu").predict(["two red dogs"])
        return int(read_whole(self.state.root / "model", lambda folder: folder.value("lineage")["round"]))


def model_folders(site: Site) -> list[Path]:
    """What lies in `models`."""
    found = sorted((site.state.root / "models").iterdir())
    assert all(each.is_dir() for each in found)
    return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


def test_the_model_is_that_of_the_last_delivered_round_and_the_only_one_kept(site: Site) -> None:
    assert site.model.current() is None
    for number in (1, 2):
        site.deliver(number)
        assert site.round_of_model() == number
        (kept,) = model_folders(site)
        assert kept == site.model.current()


def test_a_rejected_round_leaves_the_last_delivered_model(site: Site) -> None:
    site.deliver(1)
    site.deliver(2, accepted=False)
    assert site.round_of_model() == 1


def test_a_restart_makes_the_model_that_is_missing(site: Site) -> None:
    site.deliver(1)
    (site.state.root / "model").unlink()
    for path in (site.state.root / "models").rglob("*"):
        if path.is_file():
            path.unlink()
    (site.state.root / "models").rename(site.state.root / "gone")
    SiteModel(site.state.root).refresh(site.state, site.cache)
    assert site.round_of_model() == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "local/text/model.safetensors", "README.md"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_restart_makes_a_damaged_model_anew(site: Site, name: str, how: str) -> None:
    site.deliver(1)
    (expected,) = PersonalizedModel.from_pretrained(site.state.root / "model", device="cpu").predict(["a red dog"])
    path = (site.state.root / "model").resolve() / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if how != "gone":
        content[-2] ^= 1
        path.write_bytes(content if how == "flipped" else content[:-7])
    SiteModel(site.state.root).refresh(site.state, site.cache)
    assert site.round_of_model() == 1
    assert PersonalizedModel.from_pretrained(site.state.root / "model", device="cpu").predict(["a red dog"]) == [
        expected
    ]
    assert len(model_folders(site)) == 1


def test_a_model_of_an_older_agent_stays_as_it_is(site: Site) -> None:
    site.deliver(1)
    before = site.model.current()
    assert before is not None
    (before / "SHA256SUMS").unlink()
    before.with_name(f"{before.name}.sums").write_text("{}")
    site.bundle.unlink()
    SiteModel(site.state.root).refresh(site.state, site.cache)
    assert site.model.current() == before
    assert model_folders(site) == [before]


def test_what_is_missing_is_said_and_nothing_half_made_is_left(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.deliver(1)
    site.bundle.unlink()
    site.deliver(2)
    told = capsys.readouterr()
    assert "no longer among the downloads" in told.out + told.err
    assert site.round_of_model() == 1
    assert len(model_folders(site)) == 1


def test_a_bundle_that_rotted_is_not_taken(site: Site) -> None:
    site.bundle.write_bytes(b"x" + site.bundle.read_bytes()[1:])
    site.cache = ArtifactCache(site.bundle.parent, limit_bytes=1 << 30)
    site.deliver(1)
    assert site.model.current() is None


def test_a_damaged_state_makes_no_model(site: Site) -> None:
    site.deliver(1)
    current = site.model.current()
    path = site.state.root / "state" / "round-1" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    site.model.refresh(site.state, site.cache)
    assert site.model.current() == current
    assert site.round_of_model() == 1


def test_a_state_of_an_older_agent_has_no_model_until_the_next_round(site: Site) -> None:
    site.deliver(1)
    (site.state.root / "model").unlink()
    (site.state.root / "state" / "round-1" / "model_source.json").unlink()
    (site.state.root / "models").rename(site.state.root / "gone")
    site.model.refresh(site.state, site.cache)
    assert site.model.current() is None
    site.deliver(2)
    assert site.round_of_model() == 2


def test_a_folder_of_somebody_else_is_not_touched(site: Site) -> None:
    (site.state.root / "model").mkdir()
    (site.state.root / "model" / "mine.txt").write_text("mine")
    site.deliver(1)
    assert (site.state.root / "model" / "mine.txt").read_text() == "mine"


def test_a_new_state_of_the_same_round_number_gets_a_model_of_its_own(site: Site) -> None:
    site.deliver(1)
    before = site.model.current()
    site.bytes = tiny_state(KIND, tiny_bundles(), seed=99, client={"local_epochs": 1, "vocabulary": "public"})
    site.deliver(1)
    assert site.model.current() != before
    assert site.round_of_model() == 1


def _is_past(site: Site, number: int) -> bool:
    return site.round_of_model() > number


def test_killed_at_any_moment_a_whole_model_is_there(site: Site) -> None:
    site.deliver(1)
    code = f"""
import sys
from pathlib import Path
from tests.agent.test_site_model import Site
site = Site(Path({str(site.state.root)!r}))
print("ready", flush=True)
for number in range(int(sys.argv[1]), 1_000_000):
    site.deliver(number)
"""
    generator, reached = random.Random(7), 1
    for _ in range(3):
        command = [sys.executable, "-c", code, str(reached + 1)]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as agent:
            assert agent.stdout is not None
            agent.stdout.readline()
            # However slow the machine is, the agent is at work when it is killed.
            wait_until(partial(_is_past, site, reached), "the next model", seconds=60)
            for _ in range(3):
                time.sleep(generator.uniform(0.0, 0.1))
                # Read while it is replaced, too.
                assert site.round_of_model() >= reached
            agent.send_signal(signal.SIGKILL)
        current = site.model.current()
        assert current is not None
        reached = site.round_of_model()
        fresh = StateDirectory(site.state.root)
        fresh.lock()
        fresh.unlock()
        site.model.refresh(fresh, site.cache)
        found = fresh.current_folder()
        assert found is not None
        reached = site.round_of_model()
        assert reached == found[0]
        assert len(model_folders(site)) == 1
        assert list(site.state.root.glob(".*")) == []
    assert reached > 1
