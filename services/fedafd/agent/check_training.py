"""One measured look at training on this machine: the device, a few real steps, their time and memory, the tokens.

What the federation will ask for is not known before joining; its defaults stand in, with the site's own encoders.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from itertools import pairwise

import torch

from fedafd.agent.exit_codes import ExitCode, exit_code_of
from fedafd.agent.findings import Finding, error, fine, warning
from fedafd.agent.saved_state import fingerprint_of_site
from fedafd.datasets.report import texts_of
from fedafd.datasets.samples import ClientData, TextSplit
from fedafd.domain.config import AgentConfig, FederationConfig, parse_federation_config
from fedafd.domain.counted import counted
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.alone import has_alone_branch
from fedafd.learning.building import memory_bytes
from fedafd.learning.local_site import LocalSite
from fedafd.learning.local_training import train_locally
from fedafd.learning.optimizers import choose_device
from fedafd.learning.private_steps import PrivateTraining
from fedafd.learning.sentence_folder import text_reading
from fedafd.learning.tokens import tokenizer_for, unknown_share

__all__ = ["check_device", "check_tokens", "check_training"]

_STEPS = 3
_UNKNOWN_BOUND = 0.2
_CUT_BOUND = 0.1
_MEMORY_BOUND = 0.8
_TOKENS_LOOKED_AT = 20_000
"""Texts; more of them would not change a share in its first digits."""


def check_device(config: AgentConfig) -> list[Finding]:
    """The device that training would use."""
    try:
        device = choose_device(config.device)
    except FedafdError as failed:
        return [error("device", str(failed), exit_code_of(failed))]
    if device.type == "cuda":
        seen = torch.cuda.get_device_properties(device)
        return [fine("device", f"{device}: {seen.name}, {_gib(seen.total_memory)}")]
    threads = config.threads or os.cpu_count() or 1
    return [fine("device", f"{device}, {threads} threads" if device.type == "cpu" else str(device))]


def check_training(config: AgentConfig, data: ClientData) -> list[Finding]:
    """A few steps on the site's own samples, and what a round would take."""
    federation = parse_federation_config({"name": "check"})
    size = min(federation.client.for_kind(config.kind).batch_size, len(data.train))
    few = data.train.take(range(min(_STEPS * size, len(data.train))))
    epochs = math.ceil(_STEPS / max(1, len(few) // size))
    dp, changed = config.privacy.dp, dict[str, int | str](local_epochs=epochs)
    if dp is not None:
        # So many steps as for these few samples, of a federation that such a site can be in.
        dp, changed = dp.model_copy(update={"samples": len(few)}), changed | {"vocabulary": "public"}
    short = federation.model_copy(update={"client": federation.client.model_copy(update=changed)})
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    moments: list[float] = []
    try:
        encoders = {Modality.IMAGE: config.image_encoder, Modality.TEXT: config.text_encoder}
        part = ClientData(data.kind, few, data.val.take([0]), data.test.take([0]), data.labels)
        site = LocalSite(
            short,
            config.kind,
            encoders,
            part,
            None,
            0,
            config.device,
            sent=None,
            fingerprint=fingerprint_of_site(config, data.labels),
            private=None if dp is None else PrivateTraining(config=dp, spend=lambda: None),
        )
        train_locally(site, 1, lambda *_: moments.append(time.monotonic()))
        moments.append(time.monotonic())
    except FedafdError as failed:
        return [error("training step", str(failed), exit_code_of(failed))]
    except (RuntimeError, ValueError) as failed:
        return [error("training step", f"fails on this machine: {failed}", ExitCode.CONFIGURATION)]
    step = min(later - earlier for earlier, later in pairwise(moments))
    return [_time(federation, config.kind, len(data.train), size, step), _memory(site, data)]


def check_tokens(config: AgentConfig, data: ClientData) -> list[Finding]:
    """Words that the site's vocabulary lacks on texts it was not made of, and texts that are cut."""
    train = list(texts_of(data.train))
    others = [*texts_of(data.val), *texts_of(data.test)][:_TOKENS_LOOKED_AT]
    if not train or not others:
        return []
    encoder = config.text_encoder or parse_federation_config({"name": "check"}).text_encoder
    try:
        tokenizer = tokenizer_for(encoder, train)
        prefix = text_reading(encoder, Modality.TEXT).prefix or ""
    except FedafdError as failed:
        return [error("tokens", str(failed), exit_code_of(failed))]
    unknown = unknown_share(tokenizer, others)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    looked_at = [prefix + text for text in train[:_TOKENS_LOOKED_AT]]
    lengths = [len(encoded.ids) for encoded in tokenizer.encode_batch_fast(looked_at)]
    cut = sum(length > encoder.max_tokens for length in lengths) / len(lengths)
    text = (
        f"unknown words in the other splits: {_share(unknown)}; texts cut at {encoder.max_tokens} tokens: {_share(cut)}"
    )
    if unknown > _UNKNOWN_BOUND or cut > _CUT_BOUND:
        return [warning("tokens", f"{text}; text_encoder: max_tokens, or a pretrained one, would help")]
    return [fine("tokens", text)]


def _share(share: float) -> str:
    return "none" if not share else "less than 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _time(federation: FederationConfig, kind: ClientKind, count: int, size: int, step: float) -> Finding:
    epochs = federation.client.local_epochs
    # Beside each private batch goes a public one of the same size; a branch that trains alone takes each once more.
    batches = 3 if has_alone_branch(federation, kind) else 2
    seconds = batches * step * epochs * max(1, count // size)
    work = f"{counted(epochs, 'epoch')} of {counted(count, 'sample')}"
    words = f"about {_duration(seconds)} a round by a few measured steps: {work}"
    assumed = "; what the federation asks for is not known yet"
    deadline = federation.round_deadline_seconds
    if deadline is not None and seconds > deadline:
        return warning("time", f"{words}, more than the {_duration(deadline)} that a round waits by default{assumed}")
    return fine("time", words + assumed)


def _memory(site: LocalSite, data: ClientData) -> Finding:
    rows = sum(
        math.prod(site.splits["train"].rows[modality].shape[1:]) * site.splits["train"].rows[modality].element_size()
        for modality in site.encoders
    )
    samples = sum(len(split) for split in (data.train, data.val, data.test))
    if isinstance(data.train, TextSplit):
        samples = min(samples, 1)
    needed = _peak_bytes() + rows * samples
    text = f"about {_gib(needed)} of memory, data included"
    if site.device.type == "cuda":
        used = torch.cuda.max_memory_allocated(site.device)
        whole = torch.cuda.get_device_properties(site.device).total_memory
        text += f", and {_gib(used)} of the GPU's {_gib(whole)}"
    available = memory_bytes()
    if available is not None and needed > _MEMORY_BOUND * available:
        return warning("memory", f"{text}, but this machine or container has {_gib(available)}")
    return fine("memory", text if available is None else f"{text}, of {_gib(available)}")


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
