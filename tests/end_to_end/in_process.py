"""The same federation without any service: stages and sites called one after the other in this process.

What it makes is what the services must make, bit for bit, whatever fails meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tests.agent.scene import packed_model
from tests.end_to_end.federation import KINDS, Trial, agent_config

from fedafd.agent.own_data import look_at
from fedafd.agent.site import Site
from fedafd.agent.training import LocalResult, LocalTask
from fedafd.artifacts.folders import unpack_folder
from fedafd.artifacts.stage_io import EvaluateOutputs, FoldOutputs, MergeInputs, WeighInputs, WeighOutputs
from fedafd.datasets import PublicSet
from fedafd.distiller.stages import StageResult, StageWork, run_stage
from fedafd.domain.config import FederationConfig, parse_agent_config, parse_federation_config
from fedafd.domain.contributions import contributions_of
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality, StageKind
from fedafd.domain.merge_tree import Branch, plan_merges
from fedafd.domain.seeds import derive_seed


@dataclass(frozen=True)
class RoundOutcome:
    """Files by path of the published model and of each client's personalized model; the server's metrics."""

    global_model: dict[str, bytes]
    personalized: dict[str, dict[str, bytes]]
    metrics: dict[str, float]


def pulled(trial: Trial, answer: Mapping[str, Any], number: int, names: Iterable[str] = KINDS) -> RoundOutcome:
    """What a round of the services left, over REST; `names` are the sites that took part."""
    place = trial.folder / f"pulled-{number}"
    trial.rest.pull_global_model(place / "global", str(number))
    for name in names:
        trial.rest.pull_personalized_model(name, place / name, str(number))
    return RoundOutcome(_files(place / "global"), {name: _files(place / name) for name in names}, answer["metrics"])


def assert_same(found: RoundOutcome, expected: RoundOutcome) -> None:
    """Every bit."""
    assert found.metrics == expected.metrics
    _assert_same_files(found.global_model, expected.global_model)
    assert sorted(found.personalized) == sorted(expected.personalized)
    for name in found.personalized:
        _assert_same_files(found.personalized[name], expected.personalized[name])


def _assert_same_files(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
    assert sorted(found) == sorted(expected)
    other = [name for name in found if found[name] != expected[name]]
    texts = [(found[name].decode(), expected[name].decode()) for name in other if name.endswith((".md", ".json"))]
    assert not other, (other, ["\n".join(unified_diff(a.splitlines(), b.splitlines())) for a, b in texts])


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class InProcess:
    """One federation; `round` goes on from the last one."""

    def __init__(
        self,
        values: Mapping[str, Any],
        public_folder: Path,
        folder: Path,
        sites: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        """`sites` as Trial takes them."""
        torch.set_num_threads(1)
        self._config: FederationConfig = parse_federation_config(values)
        self._public = PublicSet.open(public_folder)
        self._files = folder / "artifacts"
        self._files.mkdir(parents=True)
        shutil.copy(public_folder / "manifest.json", self._files / "manifest.json")
        for shard in self._public.manifest.shards:
            shutil.copy(public_folder / shard.name, self._files / shard.sha256)
        configs = {
            name: parse_agent_config(agent_config(name, folder / name, "unused:1", sites.get(name, {})))
            for name in sorted(KINDS)
        }
        self._sites = {name: Site(config, look_at(config)[0]) for name, config in configs.items()}
        self._states: dict[str, bytes] = {}
        self._sent: dict[str, tuple[int, bytes]] = {}
        self._server: bytes | None = None

    def round(self, number: int, absent: Collection[str] = ()) -> RoundOutcome:
        """Who is `absent` counts with what it sent before, as old as that is."""
        inputs = {} if self._server is None else {"server-state": self._server}
        prepared = self._stage(StageKind.PREPARE, number, inputs).outputs
        results = {name: self._train(name, number, prepared) for name in self._sites if name not in absent}
        self._sent |= {name: (number, result.representations) for name, result in results.items()}
        states = {f"sed-state/{m.value}": self._ensemble(m, number, prepared) for m in Modality}
        inputs = {"server-state": prepared["server-state"], "global-representations": prepared["representations"]}
        distilled = self._stage(StageKind.DISTIL, number, inputs | states).outputs["server-state"]
        evaluated = self._stage(StageKind.EVALUATE, number, {"server-state": distilled})
        published = EvaluateOutputs.of(evaluated.outputs)
        self._server = published.server_state
        models = {name: unpack_folder(packed_model(result, self._files)) for name, result in results.items()}
        return RoundOutcome(dict(published.model_files), models, evaluated.metrics)

    def _stage(
        self, kind: StageKind, number: int, inputs: Mapping[str, bytes], modality: Modality | None = None
    ) -> StageResult:
        work = StageWork(
            kind=kind,
            config=self._config,
            federation_id=self._config.name,
            round_number=number,
            seed=derive_seed(self._config.seed, number, "server", kind.value),
            public_set_sha256=self._public.manifest.sha256,
            modality=modality,
            inputs=inputs,
            split=self._public.split,
            device="cpu",
            processes=1,
            progress=lambda _, __: None,
        )
        return run_stage(work)

    def _train(self, name: str, number: int, prepared: Mapping[str, bytes]) -> LocalResult:
        kind = ClientKind(KINDS[name])
        task = LocalTask(
            round_id="in-process",
            round_number=number,
            seed=derive_seed(self._config.seed, number, name, "train"),
            config=self._config,
            public_set_sha256=self._public.manifest.sha256,
            manifest=self._files / "manifest.json",
            shards=[],
            global_representations=self._kept(prepared["representations"]),
            encoder_bundles={m: self._kept(prepared[f"encoder-bundle/{m.value}"]) for m in kind.modalities},
            previous_state=self._states.get(name),
            share_model=True,
        )
        result = self._sites[name].train(task, lambda _, __: None)
        self._states[name] = result.state
        return result

    def _ensemble(self, modality: Modality, number: int, prepared: Mapping[str, bytes]) -> bytes:
        leaves: dict[int, bytes | None] = {}
        sheets: dict[int, bytes] = {}
        for position, name in enumerate(self._sites):
            leaves[position] = None
            if modality in ClientKind(KINDS[name]).modalities:
                sent_in, reps = self._sent.get(name, (0, b""))
                if sent_in < number and (not sent_in or self._config.distillation.staleness_decay is None):
                    continue
                kept = "representations" if sent_in == number else f"stale-representations/{number - sent_in}"
                inputs = {kept: reps, "global-representations": prepared["representations"]}
                folded = FoldOutputs.of(self._stage(StageKind.FOLD, number, inputs, modality).outputs)
                leaves[position] = folded.state
                if folded.sheet is not None:
                    sheets[position] = folded.sheet
        limit = None
        if len(sheets) > 1:
            weighed = self._stage(StageKind.WEIGH, number, WeighInputs(sheets=sheets).named(), modality)
            limit = WeighOutputs.of(weighed.outputs).limit
            leaves |= {p: None for p, each in contributions_of(weighed.metrics).items() if each.left_out}
        merged: dict[tuple[int, int], bytes] = {}
        while not (plan := plan_merges(len(self._sites), leaves, merged)).settled:
            for step in plan.ready:
                merged[step.level, step.position] = self._merged(number, step.children, modality, limit)
        assert plan.root is not None
        return plan.root

    def _merged(self, number: int, states: tuple[Branch[bytes], ...], modality: Modality, limit: bytes | None) -> bytes:
        inputs = MergeInputs(states=states, limit=limit).named()
        return self._stage(StageKind.MERGE, number, inputs, modality).outputs["sed-state"]

    def _kept(self, content: bytes) -> Path:
        path = self._files / sha256_of(content)
        path.write_bytes(content)
        return path
