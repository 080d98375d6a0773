"""A client's local epoch, against the plain loop: decode each batch, ask the frozen global encoder about each batch.

Both are the same training with the same draws: only what is computed once, and what is kept, differs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Clock, Ratio, Report, Times, interleaved
from benchmarks.photographs import private_photographs, public_photographs
from benchmarks.tiny import TINY_FEDERATION
from fedafd.datasets.samples import ClientData, ImageSplit, PairSplit, Split
from fedafd.domain.config import EncoderConfig, FederationConfig, parse_federation_config
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.client_data import SplitTensors
from fedafd.learning.images import augmented
from fedafd.learning.local_site import LocalSite, Sent
from fedafd.learning.local_training import train_locally
from fedafd.learning.public import Pairs, PairTensors
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.server_round import initial_server_state, prepare
from fedafd.learning.site_evaluation import SiteEvaluator

_EPOCHS = 2
_TRANSFORMER = {
    "architecture": "bert",
    "options": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
}
"""Half of BERT-base's width and depth."""
_TINY_TRANSFORMER = {
    "architecture": "bert",
    "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
}


def run(*, tiny: bool, repeats: int, clock: Clock, device: str = "auto") -> list[Report]:
    """One case per kind of client, preset small, photographs as JPEG; one more with a transformer as global encoder."""
    sizes = (16, 16) if tiny else (512, 320)
    in_turns = partial(interleaved, repeats=min(repeats, 3), warm_up=not tiny)
    values: dict[str, Any] = {"name": "bench", "preset": "small", "seed": 1, "server": {"passes": 1}}
    if tiny:
        values |= TINY_FEDERATION | {"server": TINY_FEDERATION["server"] | {"passes": 1, "initial_passes": 0}}
    small = parse_federation_config(values)
    deep = parse_federation_config(small.model_dump() | {"text_encoder": _TINY_TRANSFORMER if tiny else _TRANSFORMER})
    own = {Modality.TEXT: small.text_encoder}
    return [
        *_cases(small, dict.fromkeys(ClientKind, ("", {})), sizes, in_turns, clock, device),
        *_cases(
            deep, {ClientKind.TEXT: (", a transformer as the global text encoder", own)}, sizes, in_turns, clock, device
        ),
    ]


def _cases(
    config: FederationConfig,
    kinds: Mapping[ClientKind, tuple[str, Mapping[Modality, EncoderConfig]]],
    sizes: tuple[int, int],
    in_turns: Callable[[Mapping[str, Callable[[], Any]]], dict[str, Times]],
    clock: Clock,
    device: str,
) -> Iterator[Report]:
    """Of each kind, with its note and its own encoders; `sizes` are the numbers of public and private samples."""
    with tempfile.TemporaryDirectory(prefix="fedafd-bench-") as folder:
        public = public_photographs(sizes[0], Path(folder)).split("train")
        state = initial_server_state(config=config, captions=public.captions, seed=1)
        made = prepare(config=config, state=state, public=public, round_number=1, seed=1, device=device)
        sent = Sent(representations=made.representations, bundles=made.bundles, public=public)
        for kind, (note, encoders) in kinds.items():
            yield _case(
                config, kind, note, encoders, private_photographs(kind, sizes[1]), sent, in_turns, clock, device
            )


def _case(
    config: FederationConfig,
    kind: ClientKind,
    note: str,
    encoders: Mapping[Modality, EncoderConfig],
    data: ClientData,
    sent: Sent,
    in_turns: Callable[[Mapping[str, Callable[[], Any]]], dict[str, Times]],
    clock: Clock,
    device: str,
) -> Report:
    config = FederationConfig.model_validate(
        config.model_dump() | {"client": config.client.model_dump() | {"local_epochs": _EPOCHS}}
    )
    trained: dict[str, LocalSite] = {}

    def fast() -> None:
        site = LocalSite(config, kind, encoders, data, None, 1, device, sent=sent)
        train_locally(site, 1)
        trained["fast"] = site

    def plain() -> None:
        site = PlainSite(config, kind, encoders, data, None, 1, device, sent=sent)
        train_locally(site, 1)
        trained["plain"] = site

    times = in_turns({"local epochs": fast, "plain loop": plain})
    ratio = times["plain loop"].median(clock) / times["local epochs"].median(clock)
    scores = {name: SiteEvaluator(site).assess("val").metrics for name, site in trained.items()}
    metric = "rsum" if kind is ClientKind.PAIR else "acc1"
    facts = {f"{metric} on validation, {name}": f"{found[f'federated/{metric}']:.2f}" for name, found in scores.items()}
    counts = f"{len(data.train)} samples beside {len(sent.public or ())} public ones"
    case = f"{kind.value} client, {_EPOCHS} epochs of {counts}{note}"
    return Report("client_epoch", case, times, [Ratio("times faster than the plain loop", ratio, at_least=1.5)], facts)


class PlainSite(LocalSite):
    """A client that keeps nothing between batches. What is read to hand over is not part of training."""

    def __init__(self, *arguments: Any, sent: Sent) -> None:
        """As LocalSite, then forget what was read."""
        super().__init__(*arguments, sent=sent)
        assert sent.public is not None
        self.public = _PlainPairs(sent.public, self.encoders)
        plain: Any = self.splits
        plain._read["train"] = _PlainSplit(self.data.train, self.encoders)

    def frozen_features(self, name: Any, which: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        if name != "train":
            return super().frozen_features(name, which)
        rows = _PlainSplit(self.data.train, self._frozen).read(which)
        with torch.no_grad():
            return {
                m: self.model.centred(m, self._frozen[m](rows[m].to(self.device)).vector_BD)
                for m in self.kind.modalities
            }


class _PlainPairs(PairTensors):
    """Decodes and tokenizes what is drawn, each time."""

    def __init__(self, pairs: Pairs, encoders: Mapping[Modality, SampleEncoder]) -> None:
        self._pairs, self._encoders = pairs, encoders
        self.count = len(pairs)
        self.counts = torch.tensor([len(captions) for captions in pairs.captions])
        self.starts = torch.cumsum(self.counts, 0) - self.counts

    def drawn(self, modality: Modality, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Samples `rows`, each with one of its captions at random."""
        if modality is Modality.IMAGE:
            return self._encoders[modality].read([self._pairs.images[i] for i in rows.tolist()])
        which = (torch.rand(len(rows), generator=generator) * self.counts[rows]).long()
        texts = [self._pairs.captions[i][j] for i, j in zip(rows.tolist(), which.tolist(), strict=True)]
        return self._encoders[modality].read(texts)


class _PlainSplit(SplitTensors):
    """Decodes and tokenizes the samples of a batch, each time."""

    def __init__(self, split: Split, encoders: Mapping[Modality, SampleEncoder]) -> None:
        self._split, self._encoders, self.count = split, encoders, len(split)
        self.pairs = _PlainPairs(split, encoders) if isinstance(split, PairSplit) else None
        self.labels = None if isinstance(split, PairSplit) else torch.from_numpy(split.labels)
        self.rows = dict.fromkeys(encoders, torch.empty(0))

    def read(self, which: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Input rows of the samples, or captions, `which`."""
        split = self._split
        found: dict[Modality, Tensor] = {}
        for modality, rows in which.items():
            if isinstance(split, PairSplit) and modality is Modality.TEXT:
                every = [text for captions in split.captions for text in captions]
                found[modality] = self._encoders[modality].read([every[i] for i in rows.tolist()])
            else:
                samples: Any = split.images if isinstance(split, ImageSplit | PairSplit) else split.texts
                found[modality] = self._encoders[modality].read([samples[i] for i in rows.tolist()])
        return found

    def batch(
        self, indices: Tensor, generator: torch.Generator, *, augment: bool
    ) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        """As SplitTensors, with the same draws."""
        which = dict.fromkeys(self._encoders, indices)
        if self.pairs is not None:
            drawn = (torch.rand(len(indices), generator=generator) * self.pairs.counts[indices]).long()
            which[Modality.TEXT] = self.pairs.starts[indices] + drawn
        rows = self.read(which)
        if augment and Modality.IMAGE in rows:
            rows[Modality.IMAGE] = augmented(rows[Modality.IMAGE], generator)
        return rows, which
