"""A site whose agent took part in real, tiny rounds: what the tests of its comparison share."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.learning.tiny import IMAGE, TEXT, tiny_federation

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.history import History
from fedafd.agent.own_data import load_own_data
from fedafd.agent.site import Site
from fedafd.agent.site_model import SiteModel
from fedafd.agent.state import Credential, StateDirectory
from fedafd.agent.training import LocalResult, LocalTask
from fedafd.artifacts.representations import encode_representations
from fedafd.datasets import PublicSet, load_public_data, write_public_set
from fedafd.domain.config import AgentConfig, FederationConfig, parse_agent_config
from fedafd.domain.kinds import ClientKind, ParticipantKind, UploadPurpose
from fedafd.domain.seeds import derive_seed
from fedafd.learning.server_round import Prepared, initial_server_state, prepare

NAME = "clinic"
SHAPES = {"num_train": 40, "num_val": 16, "num_test": 24, "seed": 2}


class ComparedSite:
    """A state directory, and a federation's rounds for it, without a network."""

    def __init__(
        self, folder: Path, kind: ClientKind = ClientKind.TEXT, *, alone_branch: bool = False, **changes: Any
    ) -> None:
        torch.set_num_threads(1)
        self.kind, self.root, self._inputs = kind, folder / "site", folder / "inputs"
        values: dict[str, Any] = {
            "aggregator": "127.0.0.1:1",
            "kind": kind.value,
            "state_dir": str(self.root),
            "data": {"adapter": "shapes", "options": SHAPES},
            "image_encoder": IMAGE,
            "text_encoder": TEXT,
            "device": "cpu",
            "threads": 1,
        }
        self.values = values | changes
        self.config: AgentConfig = parse_agent_config(self.values)
        self.file = folder / "agent.yaml"
        self.file.write_text(yaml.safe_dump(self.values), encoding="utf-8")
        self.state = StateDirectory(self.root)
        self.state.save_credential(
            Credential(
                federation_id="f-1", client_id="c-1", client_name=NAME, kind=ParticipantKind(kind), secret="hidden"
            )
        )
        self.cache = ArtifactCache(self.root / "artifacts", limit_bytes=1 << 30)
        self._public = self._publish(folder)
        # Without it the baseline is trained apart from the rounds, which is what most of these tests are about.
        fusion = {"alone_branch": alone_branch}
        self.federation: FederationConfig = tiny_federation(client={"local_epochs": 2}, fusion=fusion)
        self._prepared: Prepared | None = None
        own = load_own_data(self.config, self.root)
        self.site = Site(self.config, own.data, content=own.fingerprint)

    def train_for(self, *, epochs: int, **training: Any) -> None:
        """Change how the federation trains from now on."""
        client = self.federation.client
        kind = getattr(client, self.kind.value).model_copy(update=training)
        client = client.model_copy(update={"local_epochs": epochs, self.kind.value: kind})
        self.federation = self.federation.model_copy(update={"client": client})

    def train(self, number: int) -> LocalResult:
        """The client's part of a round."""
        return self.site.train(self.task(number), lambda *_: None)

    def train_shared(self, number: int) -> LocalResult:
        """The same, of a site that shares its model."""
        return self.site.train(replace(self.task(number), share_model=True), lambda *_: None)

    def train_from(self, number: int, state: bytes) -> LocalResult:
        """The same, with another state than the round before left."""
        return self.site.train(replace(self.task(number), previous_state=state), lambda *_: None)

    def deliver(
        self, number: int, result: LocalResult | None = None, scores: bytes | None = None, *, follow: bool = True
    ) -> LocalResult:
        """One whole round, as an agent leaves it; `scores` in place of those that its model got."""
        task = self.task(number)
        result = result or self.site.train(task, lambda *_: None)
        bundles = {modality.value: path.name for modality, path in task.encoder_bundles.items()}
        pending = self.state.save_pending(
            round_id=task.round_id,
            round_number=number,
            task_key=task.key(),
            metrics=result.metrics,
            num_private_samples=result.num_private_samples,
            state=result.state,
            blobs={UploadPurpose.REPRESENTATIONS: result.representations},
            model_source={
                "recipe": result.model_recipe,
                "bundles": bundles,
                "global_representations": task.global_representations.name,
            },
            scores=scores or result.scores,
        )
        self.state.promote(pending)
        SiteModel(self.root).refresh(self.state, self.cache)
        if follow:
            History(self.root).follow(self.state)
        return result

    def _publish(self, folder: Path) -> PublicSet:
        data = load_public_data("shapes", None, {"num_train": 24, "num_val": 8, "num_test": 8})
        write_public_set(data, folder / "public")
        public = PublicSet.open(folder / "public")
        self._inputs.mkdir()
        for shard in public.manifest.shards:
            (path,) = (folder / "public").rglob(Path(shard.name).name)
            shutil.copy(path, self._inputs / shard.sha256)
        (path,) = (folder / "public").rglob("manifest.json")
        shutil.copy(path, self._inputs / "manifest.json")
        return public

    def task(self, number: int) -> LocalTask:
        """What the federation asks for in a round."""
        manifest, samples = self._public.manifest, self._public.split("train")
        if self._prepared is None:
            state = initial_server_state(config=self.federation, captions=samples.captions, seed=3)
            self._prepared = prepare(
                config=self.federation, state=state, public=samples, round_number=1, seed=4, device="cpu"
            )
        reps = self._kept(
            encode_representations(self._prepared.representations, manifest.sha256, self.federation.wire_dtype)
        )
        current = self.state.current_state()
        return LocalTask(
            round_id=f"r{number}",
            round_number=number,
            seed=derive_seed(self.federation.seed, number, NAME, "train"),
            config=self.federation,
            public_set_sha256=manifest.sha256,
            manifest=self._inputs / "manifest.json",
            shards=[self._inputs / shard.sha256 for shard in manifest.shards],
            global_representations=reps,
            encoder_bundles={m: self._kept(self._prepared.bundles[m]) for m in self.kind.modalities},
            previous_state=None if current is None else current[1],
            share_model=False,
            representation_noise=self.config.share.representation_noise,
        )

    def _kept(self, bundle: bytes) -> Path:
        path = self.root / "artifacts" / hashlib.sha256(bundle).hexdigest()
        path.write_bytes(bundle)
        return path
