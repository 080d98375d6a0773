"""`fedafd audit leakage` at the site: attacks on what it delivered last, with the true answers that only it has.

The attacker is the federation's server: it holds the delivered rows, its own global rows and its frozen encoder. As
samples that it has to tell from training samples it gets those of the site's val and test splits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.own_data import load_own_data
from fedafd.agent.site_attributes import SiteAttribute, chosen_attribute
from fedafd.agent.state import MODEL_SOURCE_FILE, StateDirectory
from fedafd.artifacts.representations import decode_representations
from fedafd.datasets.samples import ClientData, PairSplit, Split
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import Modality, UploadPurpose
from fedafd.learning.attribute_leakage import Attributed, attribute_leakage
from fedafd.learning.audited_samples import global_features, of_each_text
from fedafd.learning.leakage import Leakage, Rows, label_leakage, membership_leakage

__all__ = ["LeakageAudit", "audit_words", "audited"]

_AGAIN = "deliver one more round with this version, then audit it"


@dataclass(frozen=True, kw_only=True)
class LeakageAudit:
    """Of one delivered round."""

    round_number: int
    num_members: int
    num_others: int
    membership: dict[Modality, Leakage]
    labels: Leakage | None
    """None for pairs, for several labels a sample, and where no class has a sample in val or test."""
    attribute_name: str | None = None
    attribute: dict[Modality, Leakage | None] = field(default_factory=dict)
    """None where fewer than two of its values have samples both in training and in val or test."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "round": self.round_number,
            "num_members": self.num_members,
            "num_others": self.num_others,
            "membership": {modality.value: asdict(leakage) for modality, leakage in self.membership.items()},
            "labels": None if self.labels is None else asdict(self.labels),
            "attribute_name": self.attribute_name,
            "attribute": {
                m.value: None if leakage is None else asdict(leakage) for m, leakage in self.attribute.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    """The last delivery, and what the server had beside it."""

    round_number: int
    released: Mapping[Modality, Rows]
    anchors: Mapping[Modality, Rows]
    """The server's own rows."""
    bundles: Mapping[Modality, bytes]
    """The server's encoders, packed."""


def audited(
    config: AgentConfig, *, resamples: int = 1000, topics: Sequence[str] = (), attributes: Path | None = None
) -> LeakageAudit:
    """Attack the last delivery; `topics` or the file `attributes` say which attribute is looked for, if any.

    Raises DataError without a delivery, where what it was made of is gone, or where `attributes` cannot be read, and
    ConfigurationError for an attribute that these samples cannot have.
    """
    delivery = _last_delivery(config)
    released, anchors, bundles = delivery.released, delivery.anchors, delivery.bundles
    data = load_own_data(config, config.state_dir).data
    attribute = chosen_attribute(topics, attributes, (data.train, data.val, data.test))
    inside = {m: global_features(bundle, m, [data.train], config.device) for m, bundle in bundles.items()}
    outside = {m: global_features(bundle, m, [data.val, data.test], config.device) for m, bundle in bundles.items()}
    if not len(data.val) + len(data.test):
        raise DataError("val and test have no sample that training samples could be told from")
    number = delivery.round_number
    of_attribute: dict[Modality, Leakage | None] = {}
    if attribute is not None:
        for modality, bundle in bundles.items():
            of_attribute[modality] = attribute_leakage(
                released[modality],
                anchors[modality],
                _attributed(attribute, [data.train], modality, bundle, inside[modality], config.device),
                _attributed(attribute, [data.val, data.test], modality, bundle, outside[modality], config.device),
                seed=number,
                resamples=resamples,
            )
    return LeakageAudit(
        round_number=number,
        num_members=len(data.train),
        num_others=len(data.val) + len(data.test),
        membership={
            m: membership_leakage(released[m], anchors[m], inside[m], outside[m], seed=number, resamples=resamples)
            for m in config.kind.modalities
        },
        labels=_labels(data, released, anchors, outside, number, resamples),
        attribute_name=None if attribute is None else attribute.name,
        attribute=of_attribute,
    )


def _last_delivery(config: AgentConfig) -> _Delivery:
    from fedafd.learning.personalized_export import Recipe

    current = StateDirectory(config.state_dir).current_folder()
    if current is None:
        raise DataError(f"{config.state_dir}: no round is delivered yet, so that nothing has left to be audited")
    number, folder = current
    cache = ArtifactCache(config.state_dir / "artifacts", limit_bytes=2**62)
    source = _source(folder / MODEL_SOURCE_FILE)
    recipe = Recipe.from_json(source["recipe"])
    expected: dict[str, Any] = {
        "modalities": config.kind.modalities,
        "num_samples": None,
        "embedding_dim": recipe.config.embedding_dim,
        "public_set_sha256": str(recipe.lineage["public_set_sha256"]),
        "dtype": recipe.config.wire_dtype,
        "allow_more": True,
    }
    blob = folder / f"{UploadPurpose.REPRESENTATIONS.value}.blob"
    if not blob.is_file():
        raise DataError(f"{blob}: is not here; {_AGAIN}")
    return _Delivery(
        round_number=number,
        released=decode_representations(blob.read_bytes(), **expected),
        anchors=decode_representations(_downloaded(cache, source["global_representations"]), **expected),
        bundles={m: _downloaded(cache, source["bundles"][m.value]) for m in config.kind.modalities},
    )


def audit_words(audit: LeakageAudit) -> Iterator[str]:
    """For a terminal."""
    yield f"round {audit.round_number}: {audit.num_members:,} training samples, {audit.num_others:,} of val and test"
    for modality, measured in audit.membership.items():
        yield f"membership from {modality.value} representations: {_advantage_words(measured)}"
    if audit.labels is not None:
        yield f"distribution of classes: {_advantage_words(audit.labels)}"
    for modality, leakage in audit.attribute.items():
        words = "too few samples of its values" if leakage is None else _advantage_words(leakage)
        yield f"{audit.attribute_name} from {modality.value} representations: {words}"
    yield "0 is chance, 1 is always right; 95 % intervals by bootstrap. No attack found is no proof that none exists:"
    yield "these attacks know the released rows, the global ones and the global encoder, and no weights of yours."


def _advantage_words(leakage: Leakage) -> str:
    shown = "LEAKS" if leakage.is_shown else "not shown"
    return f"advantage {leakage.advantage:+.3f} [{leakage.low:+.3f}, {leakage.high:+.3f}], {shown}"


def _source(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
        return {"recipe": values["recipe"], "bundles": values["bundles"]} | {
            "global_representations": values["global_representations"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: does not name what the round was made of ({error}); {_AGAIN}") from None


def _downloaded(cache: ArtifactCache, sha256: str) -> bytes:
    path = cache.find(str(sha256))
    if path is None:
        raise DataError(
            f"what the last round was made of ({str(sha256)[:12]}) is no longer among the downloads; {_AGAIN}"
        )
    return path.read_bytes()


def _attributed(
    attribute: SiteAttribute, splits: Sequence[Split], modality: Modality, bundle: bytes, features: Rows, device: str
) -> Attributed:
    """As the attacker has them: without the words that tell the attribute."""
    values = attribute.values(splits)
    if modality is Modality.TEXT:
        values = of_each_text(values, splits)
        if attribute.topics:
            features = global_features(bundle, modality, splits, device, topics=attribute.topics)
    return Attributed(features, values)


def _labels(
    data: ClientData,
    released: Mapping[Modality, Rows],
    anchors: Mapping[Modality, Rows],
    outside: Mapping[Modality, Rows],
    seed: int,
    resamples: int,
) -> Leakage | None:
    if isinstance(data.train, PairSplit) or data.train.labels.ndim != 1 or isinstance(data.val, PairSplit):
        return None
    assert not isinstance(data.test, PairSplit)
    (modality,) = outside
    given = np.concatenate([split.labels for split in (data.val, data.test) if len(split)])
    classes = [label for label in range(len(data.labels)) if (given == label).any()]
    counts = np.array([(data.train.labels == label).sum() for label in classes], dtype=np.int64)
    if len(classes) < 2 or not counts.sum():
        return None
    prototypes = np.stack([outside[modality][given == label].mean(0) for label in classes])
    return label_leakage(released[modality], anchors[modality], prototypes, counts, seed=seed, resamples=resamples)
