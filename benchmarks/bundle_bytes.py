"""Bytes between a client and the services in a round, through the real ones, for each way to train the encoders.

The paper's encoders, ResNet-101 and BERT-base, with random weights: what is counted depends on their layout alone. One
client of pairs, with tiny encoders of its own, takes part in three rounds and shares its model.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Clock, Ratio, Report

__all__ = ["run"]

_MODES = ("all", "head", "lora")
_WORDS = ("a", "the", "red", "green", "blue", "yellow", "large", "small", "circle", "square", "triangle", "on", "in")
_MEGABYTE = 1e6
_OWN = {
    "image_encoder": {
        "architecture": "resnet",
        "image_size": 32,
        "options": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    },
    "text_encoder": {"architecture": "bigru", "options": {"embedding_size": 16, "hidden_size": 16}},
}
_SAMPLES = {"num_train": 32, "num_val": 8, "num_test": 8}


@dataclass(frozen=True)
class _Bytes:
    """Of one round."""

    down: int
    up: Mapping[str, int]
    """By what the site's ledger calls it."""
    whole_model: int
    """The shared model's folder, as the federation has it."""


def run(*, tiny: bool, repeats: int, clock: Clock) -> list[Report]:
    """Bytes do not spread: each way runs once, whatever `repeats` and the clock."""
    del repeats, clock
    with tempfile.TemporaryDirectory() as folder:
        weights = _weights(Path(folder) / "weights", tiny=tiny)
        modes, rounds = (("head",), 2) if tiny else (_MODES, 3)
        counted = {mode: _counted(weights, mode, rounds) for mode in modes}
        known = {mode: _first_to_one_that_has(weights, mode).down for mode in modes if mode != "all"}
        whole = sum(path.stat().st_size for path in Path(folder, "weights").glob("*/model.safetensors"))
    reports = []
    for mode, (first, later) in counted.items():
        ratios = [
            Ratio("MB at first contact", first.down / _MEGABYTE),
            *([Ratio("MB at first contact, checkpoints there", known[mode] / _MEGABYTE)] if mode in known else []),
            Ratio("MB in a later round", later.down / _MEGABYTE),
            Ratio("share of the weights", later.down / whole, at_most=0.01 if mode == "lora" and not tiny else None),
            Ratio("MB of representations up", later.up["representations"] / _MEGABYTE),
            Ratio("MB of the shared model", later.whole_model / _MEGABYTE),
            Ratio("MB of it up at first", first.up["personalized-model"] / _MEGABYTE),
            Ratio("MB of it up in a later round", later.up["personalized-model"] / _MEGABYTE),
            Ratio(
                "share of it up in a later round",
                later.up["personalized-model"] / later.whole_model,
                at_most=None if tiny else 0.01,
            ),
        ]
        reports.append(Report("bundle_bytes", f"trainable: {mode}", ratios=ratios, facts={"weights_bytes": whole}))
    return reports


def _weights(folder: Path, *, tiny: bool) -> dict[str, Path]:
    """Folders as `save_pretrained` leaves them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    sizes: Any = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"} if tiny else {}
    text: Any = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if not tiny:
        sizes, text = {"depths": [3, 4, 23, 3]}, {}
    image_config, text_config = transformers.ResNetConfig(**sizes), transformers.BertConfig(**text)
    transformers.ResNetModel(image_config).save_pretrained(folder / "image")
    transformers.BertModel(text_config).save_pretrained(folder / "text")
    words = [
        "[PAD]",
        "[UNK]",
        *["a", "the", "red", "green", "blue", "yellow", "large", "small", "circle", "square", "triangle", "on", "in"],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder / "text")
    return {"image": folder / "image", "text": folder / "text"}


def _counted(weights: dict[str, Path], mode: str, rounds: int) -> tuple[_Bytes, _Bytes]:
    # A folder for each, as rounds that train all weights leave large states.
    with tempfile.TemporaryDirectory() as folder:
        first, *later = _rounds(Path(folder), weights, mode, rounds)
    median = sorted(later, key=lambda counted: counted.down)[(len(later) - 1) // 2]
    sys.stderr.write(f"trainable: {mode}: {first} at first, {median} in a later round\n")
    return first, median


def _first_to_one_that_has(weights: dict[str, Path], mode: str) -> _Bytes:
    """The first round of a site that has the checkpoints itself."""
    with tempfile.TemporaryDirectory() as folder:
        (first,) = _rounds(Path(folder), weights, mode, 1, {"base_weights": {k: str(v) for k, v in weights.items()}})
    sys.stderr.write(f"trainable: {mode}, checkpoints there: {first}\n")
    return first


def _rounds(
    folder: Path, weights: dict[str, Path], mode: str, rounds: int, more: Mapping[str, Any] | None = None
) -> list[_Bytes]:
    """Of each round; `more` stands in agent.yaml."""
    import yaml

    from fedafd.agent.ledger import read_sent
    from fedafd.client.federation import FederationClient
    from fedafd.datasets import load_public_data, write_public_set
    from fedafd.local.services import Backends, Services, start_redis, thread_environment
    from fedafd.local.supervisor import Supervisor

    with Supervisor(folder / "logs") as supervisor:
        backends = Backends(
            database_url=f"sqlite:///{folder / 'fedafd.db'}",
            redis_url=start_redis(supervisor, folder),
            store={"URL": str(folder / "store")},
        )
        services = Services(supervisor, backends, http_port=None, threads=len(os.sched_getaffinity(0)))
        services.start()
        rest = FederationClient(services.url, services.api_key, "bytes")
        rest.create(_federation(weights, mode))
        write_public_set(load_public_data("shapes", None, _SAMPLES), folder / "public")
        rest.push_public_set(folder / "public")
        token, site = rest.invite("pairs", "pair"), folder / "agent.yaml"
        own = {"aggregator": services.aggregator, "kind": "pair", "state_dir": str(folder / "agent"), "threads": 1}
        shares = {"share": {"personalized_model": True}}
        own |= dict(more or {})
        site.write_text(yaml.safe_dump(own | shares | _OWN | {"data": {"adapter": "shapes", "options": _SAMPLES}}))
        environment = thread_environment(1) | {"FEDAFD_AGENT_ENROLMENT_TOKEN": token}
        supervisor.start("agent", [sys.executable, "-m", "fedafd.agent.main", "--config", str(site)], environment)
        supervisor.wait_until(lambda: rest.clients()[0]["state"] == "enrolled", "the agent", seconds=300)
        rest.start_rounds(rounds)
        counted = []
        for number in range(1, rounds + 1):
            done = rest.wait_for_round(number, lambda _: supervisor.check(), seconds=3600)
            sent = {entry.what: entry.bytes for entry in read_sent(folder / "agent") if entry.round == number}
            files = (folder / "store" / f"federations/bytes/clients/pairs/models/{number}").rglob("*")
            whole_model = sum(path.stat().st_size for path in files if path.is_file())
            counted.append(_Bytes(int(done["participations"][0]["bytes_down"]), sent, whole_model))
        rest.close()
    return counted


def _federation(weights: dict[str, Path], mode: str) -> dict[str, Any]:
    return {
        "name": "bytes",
        "image_encoder": {
            "architecture": "resnet",
            "pretrained": str(weights["image"]),
            "image_size": 64,
            "trainable": mode,
        },
        "text_encoder": {
            "architecture": "bert",
            "pretrained": str(weights["text"]),
            "max_tokens": 16,
            "trainable": mode,
        },
        "server": {"passes": 1, "batch_size": 16, "optimizer": "sgd"},  # no averages in its states; bundles have none
        "client": {"local_epochs": 1},
        "idle_timeout_seconds": 3600,
        "round_deadline_seconds": None,
    }
