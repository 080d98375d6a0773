"""The global model in training: its state unpacked onto a device, its steps on the public set, and the state again.

Shape legend: N public samples, D embedding dimension. Source: FedAFD, arXiv 2603.04890; the recipe's choices beside the
paper are FederationConfig's, each with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from fedafd.algorithm.centring import centre
from fedafd.algorithm.contrastive import SoftContrastiveLoss
from fedafd.algorithm.distillation import distillation_loss
from fedafd.domain.config import EncoderConfig, FederationConfig
from fedafd.domain.kinds import Modality
from fedafd.domain.seeds import derive_seed
from fedafd.learning.acceleration import accelerate, encode_in
from fedafd.learning.ahead import ahead
from fedafd.learning.beside import beside
from fedafd.learning.checkpoint import Checkpoint, InPlace
from fedafd.learning.feeding import gathered, sent
from fedafd.learning.images import draw, moved
from fedafd.learning.optimizers import LossCheck, choose_device, cosine_factor, make_optimizer
from fedafd.learning.parallel import ALONE, Group
from fedafd.learning.public import PairTensors
from fedafd.learning.recorded_steps import RecordedSteps, Recorder, recorder_for
from fedafd.learning.sample_encoder import SampleEncoder, is_pooled
from fedafd.learning.trainable import trainable_parameters
from fedafd.learning.waypoints import NOWHERE, TrainingWay, Waypoints

__all__ = ["GlobalEncoders", "GlobalRun", "Progress", "fresh_state", "unpacked"]

Progress = Callable[[float, str], None]
Reps = Mapping[Modality, Tensor]


class GlobalBatch(NamedTuple):
    """What a step takes, on the device; and on the host the order of its pass, and the generator's state behind it."""

    inputs: dict[Modality, Tensor]
    """Pixels and token ids, or features of frozen backbones: this process's share of the batch."""
    targets: dict[Modality, Tensor]
    """What is distilled [B, D], of the whole batch."""
    order: Tensor
    drawn: Tensor


class GlobalEncoders(nn.Module):
    """The image and the text encoder, and the loss that they share."""

    def __init__(
        self, config: FederationConfig, tokenizer: Tokenizer, described: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """`described`: what the encoders of an earlier version say of themselves; nothing pretrained is read again."""
        super().__init__()
        dim, chosen = config.embedding_dim, {Modality.IMAGE: config.image_encoder, Modality.TEXT: config.text_encoder}
        if described is not None:
            trainable = {modality: encoder.trainable for modality, encoder in chosen.items()}
            chosen = {
                m: EncoderConfig.model_validate({**described[m.value], "trainable": trainable[m]}) for m in chosen
            }
        self.image = SampleEncoder(chosen[Modality.IMAGE], Modality.IMAGE, dim=dim)
        self.text = SampleEncoder(chosen[Modality.TEXT], Modality.TEXT, dim=dim, tokenizer=tokenizer)
        self.contrast = SoftContrastiveLoss(config.server.loss_scale)

    @property
    def encoders(self) -> dict[Modality, SampleEncoder]:
        return {Modality.IMAGE: self.image, Modality.TEXT: self.text}


class GlobalRun:
    """A state unpacked onto a device."""

    def __init__(
        self,
        config: FederationConfig,
        state: bytes,
        round_number: int,
        seed: int,
        device: str | torch.device,
        group: Group = ALONE,
    ) -> None:
        self.config, self.round_number, self.seed, self.group = config, round_number, seed, group
        self.device = choose_device(device) if isinstance(device, str) else device
        self.model, checkpoint = unpacked(config, state)
        self.model.to(self.device)
        encode_in(self.model.encoders.values(), config.server.encode_autocast, self.device)
        self.optimizer = _optimizer(self.model, config, round_number)
        if all(
            encoder.get("trainable", "all") == self.model.encoders[Modality(name)].config.trainable
            for name, encoder in checkpoint.meta.get("encoders", {}).items()
        ):
            checkpoint.load_optimizer("optimizer", self.optimizer)
        self.generator = torch.Generator().manual_seed(seed)
        self._encoders: dict[Modality, nn.Module] = dict(self.model.encoders)
        self.means: Reps | None = None
        self.losses = LossCheck(f"global training, round {round_number}")

    def state(self) -> bytes:
        """What a later round goes on from."""
        return _packed(self.model, self.optimizer, InPlace).to_bytes()

    def saving(self) -> Callable[[], bytes]:
        """What gives `state`, which nothing changes meanwhile; off the CPU a thread makes it beside what follows."""
        return (
            self.state
            if self.device.type == "cpu"
            else beside(_packed(self.model, self.optimizer, Checkpoint).to_bytes)
        )

    def train(
        self,
        pairs: PairTensors,
        passes: int,
        targets: Reps,
        means: Reps | None,
        progress: Progress,
        waypoints: Waypoints = NOWHERE,
    ) -> None:
        """`passes` over the pairs, kept in `waypoints`. `targets` are distilled; `means` centre what meets them."""
        server = self.config.server
        pairs.keep_on(self.device)
        self.means = None if means is None else {m: mean.to(self.device) for m, mean in means.items()}
        accelerate(
            self.model.encoders.values(),
            device=self.device,
            autocast=server.autocast,
            accumulate=server.accumulate,
            compiled=server.compile,
        )
        self._encoders = {m: self.group.wrap(encoder, self.device) for m, encoder in self.model.encoders.items()}
        with torch.random.fork_rng(devices=[]):
            # Each process draws dropout masks of its own.
            torch.manual_seed(self.seed if self.group.rank == 0 else derive_seed(self.seed, "rank", self.group.rank))
            self.model.train()
            way = TrainingWay(waypoints, self.model, {"optimizer": self.optimizer}, self.device, self.generator)
            step = RecordedSteps(self._step, self._recorder(), list(self.model.parameters()), self.device)
            with way:
                done, resumed = way.restore()
                steps = max(1, pairs.count // min(server.batch_size, pairs.count))
                source = self._batches(pairs, targets, range(done, passes * steps), resumed.get("order"))
                for number, batch in enumerate(ahead(source, self.device), start=done):
                    progress(number / (passes * steps), f"public pass {number // steps + 1} of {passes}")
                    self.losses.add(step(batch))
                    last = number + 1 == passes * steps
                    if last or waypoints.due():
                        self.losses.read()  # what is kept is of a run that has not diverged
                    way.keep(number + 1, drawn=batch.drawn, last=last, order=batch.order)
            self.model.eval()

    def _recorder(self) -> Recorder | None:
        server = self.config.server
        return recorder_for(
            self.device,
            wanted=server.graph,
            accumulate=server.accumulate,
            compiled=server.compile,
            size=self.group.size,
        )

    def _batches(
        self, pairs: PairTensors, targets: Reps, numbers: range, order: Tensor | None
    ) -> Iterator[GlobalBatch]:
        """The batches of the steps `numbers`; `order`: of the pass that the first of them lies in."""
        size = min(self.config.server.batch_size, pairs.count)
        steps = max(1, pairs.count // size)
        for number in numbers:
            if number % steps == 0 or order is None:
                order = torch.randperm(pairs.count, generator=self.generator)
            start = number % steps * size
            yield self._batch(pairs, targets, order[start : start + size], order)

    def _batch(self, pairs: PairTensors, targets: Reps, rows: Tensor, order: Tensor) -> GlobalBatch:
        # All draws are the whole batch's, so that they do not depend on the number of processes.
        pixels = pairs.drawn(Modality.IMAGE, self.group.slice(rows), self.generator)
        if self.config.server.augment and not is_pooled(pixels):
            draws = draw(len(rows), pixels.shape[-1], self.generator)
            pixels = moved(pixels, draws._replace(mirrored=self.group.slice(draws.mirrored)))
        ids = self.group.slice(pairs.drawn(Modality.TEXT, rows, self.generator))
        inputs = {Modality.IMAGE: sent(pixels, self.device), Modality.TEXT: sent(ids, self.device)}
        batch_targets = {m: gathered(target, rows) for m, target in targets.items()}
        return GlobalBatch(inputs, batch_targets, order, self.generator.get_state())

    def _step(self, batch: GlobalBatch) -> Tensor:
        """One step of the optimizer; its loss."""
        config = self.config
        features = {
            modality: self.group.gathered(self._encoders[modality](rows).vector_BD)
            for modality, rows in batch.inputs.items()
        }
        loss = features[Modality.IMAGE].new_zeros(())
        if not batch.targets or config.distillation.joint:
            images, texts = features[Modality.IMAGE], features[Modality.TEXT]
            loss = self.model.contrast(images, texts) / len(images)
        if batch.targets:
            compared = features if self.means is None else {m: centre(f, self.means[m]) for m, f in features.items()}
            loss = loss + distillation_loss(compared, batch.targets, weight=config.distillation.weight)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.group.averaged(self.model.contrast.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), config.server.clip_norm)
        self.optimizer.step()
        return loss.detach()


def fresh_state(config: FederationConfig, tokenizer: Tokenizer) -> bytes:
    """Of a model with fresh or pretrained weights, drawn from torch's global generator."""
    model = GlobalEncoders(config, tokenizer)
    return _packed(model, _optimizer(model, config, 1), InPlace).to_bytes()


def unpacked(config: FederationConfig, state: bytes) -> tuple[GlobalEncoders, Checkpoint]:
    """The model of a state, and all that the state holds beside it."""
    checkpoint = Checkpoint.from_bytes(state)
    tokenizer = Tokenizer.from_str(checkpoint.meta["tokenizer"])
    model = GlobalEncoders(config, tokenizer, checkpoint.meta.get("encoders"))
    checkpoint.load_module("model", model)
    return model.eval(), checkpoint


def _optimizer(model: nn.Module, config: FederationConfig, round_number: int) -> torch.optim.Optimizer:
    server = config.server
    factor = cosine_factor(round_number, server.schedule_rounds) if server.schedule == "cosine" else 1.0
    return make_optimizer(
        server.optimizer,
        trainable_parameters(model),
        server.learning_rate * factor,
        server.weight_decay,
        recorded=server.graph,
    )


def _packed(model: GlobalEncoders, optimizer: torch.optim.Optimizer, as_: type[Checkpoint]) -> Checkpoint:
    tokenizer = model.text.tokenizer
    checkpoint = as_(
        meta={
            "tokenizer": tokenizer.to_str() if tokenizer is not None else None,
            "encoders": {
                modality.value: encoder.config.model_dump(mode="json") for modality, encoder in model.encoders.items()
            },
        }
    )
    checkpoint.add_module("model", model)
    checkpoint.add_optimizer("optimizer", optimizer)
    return checkpoint
