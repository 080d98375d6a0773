"""Local epochs: a step takes a private batch, a public batch, or one of each, as the alignment's schedule says.

Shape legend: B a batch, N public samples, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedafd.algorithm.alignment import backward_balanced
from fedafd.domain.config import FederationConfig, KindTrainingConfig
from fedafd.domain.leaving import Activity, ActivityKind
from fedafd.learning.acceleration import untouched_statistics
from fedafd.learning.ahead import ahead
from fedafd.learning.local_site import LocalSite
from fedafd.learning.optimizers import LossCheck, steps_factor
from fedafd.learning.private_steps import PrivateGradient
from fedafd.learning.recorded_steps import RecordedSteps, recorder_for
from fedafd.learning.regularisers import Regulariser, Terms, make_regulariser
from fedafd.learning.step_batches import PublicBatch, StepBatch, epoch_batches, private_steps, warm_batches
from fedafd.learning.waypoints import NOWHERE, TrainingWay, Waypoints

__all__ = ["Progress", "learning_rate_factor", "train_locally"]

Progress = Callable[[float, Activity], None]
"""Hears the done share, 0 to 1, and what is being done."""


def train_locally(
    site: LocalSite,
    round_number: int,
    progress: Progress = lambda _, __: None,
    waypoints: Waypoints = NOWHERE,
) -> float | None:
    """All local epochs of one round, each kept in `waypoints` when it is over. Raises DivergedError.

    Returns the mean loss of the last epoch's steps on private samples; None if that was done before.
    """
    config, training = site.config, site.training
    factor = learning_rate_factor(config, training, round_number)
    for group in site.optimizers["main"].param_groups:
        group["lr"] = training.learning_rate * factor
    # The offset was chosen for use; far from 0 it would keep the gate, or the own encoder, from learning.
    site.gates.set_gate_offset(0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(site.seed + round_number if site.private is None else site.private.seed("layers"))
        steps = _Steps(site, _regulariser(site))
        site.model.train()
        way = TrainingWay(waypoints, site.model, site.optimizers, site.device, site.generator)
        with way:
            done, _ = way.restore()
            if site.is_new and not done:
                steps.warm_start(config.fusion.warm_start_steps)
            epochs = config.client.local_epochs
            for epoch in range(done, epochs):
                steps.epoch(epoch, epochs, progress)
                # What is kept is of a run that has not diverged.
                steps.losses.read()
                way.keep(epoch + 1, last=epoch + 1 == epochs)
        site.model.eval()
        return steps.mean_loss()


def learning_rate_factor(config: FederationConfig, training: KindTrainingConfig, round_number: int) -> float:
    """What the schedule of a kind of client makes of its learning rate in a round."""
    if training.schedule == "constant":
        return 1.0
    return steps_factor(round_number, training.schedule_rounds or config.server.schedule_rounds)


def _regulariser(site: LocalSite) -> Regulariser | None:
    if site.public is None:
        return None
    previous = {}
    if site.config.alignment.mode == "contrastive":
        previous = {m: torch.from_numpy(rows).to(site.device) for m, rows in site.represent().items()}
    return make_regulariser(
        site.config.alignment,
        global_reps=site.global_reps,
        alignment=site.model.alignment,
        discriminators=site.optimizers["discriminators"],
        previous=previous,
        weight=site.training.public_weight,
    )


class _Steps:
    def __init__(self, site: LocalSite, regulariser: Regulariser | None) -> None:
        self._site, self._regularise = site, regulariser
        self.losses = LossCheck(site.stage)
        self._encoder_parameters = [p for encoder in site.encoders.values() for p in encoder.parameters()]
        self._sum, self._count = torch.zeros((), device=site.device), 0
        client = site.config.client
        self._private = None if site.private is None else PrivateGradient(site.private, site)
        self._where = (0, 0)
        """Epoch, 0 for the warm start, and step; what the noise follows from."""
        graph = client.graph and self._private is None
        recorder = recorder_for(site.device, wanted=graph, accumulate=client.accumulate, compiled=client.compile)
        every = list(site.model.parameters())
        self._recorded = RecordedSteps(self._step, recorder, every, site.device)
        self._clipped = [p for n, p in site.model.named_parameters() if not n.startswith("alignment.")]

    def warm_start(self, count: int) -> None:
        """Fusion and head find their place beside encoders that are held."""
        if "fusion" not in self._site.optimizers:
            return
        for step, batch in enumerate(ahead(warm_batches(self._site, count), self._site.device)):
            self._where = (0, step)
            self._take(batch, frozen=True)

    def mean_loss(self) -> float | None:
        """Over the steps of the epoch that was done last."""
        return float(self._sum) / self._count if self._count else None

    def epoch(self, epoch: int, epochs: int, progress: Progress) -> None:
        self._sum, self._count = torch.zeros_like(self._sum), 0
        site, activity = self._site, Activity(ActivityKind.TRAINING, epoch + 1, epochs)
        steps = private_steps(site)
        for batch in ahead(epoch_batches(site, aligns=self._regularise is not None), site.device):
            progress((epoch + self._count / steps) / epochs, activity)
            self._where = (epoch + 1, self._count)
            self._take(batch)

    def _take(self, batch: StepBatch, *, frozen: bool = False) -> None:
        """A step, and a look at its loss; `frozen`: the encoders stay as they are."""
        loss = self._step(batch, frozen=True) if frozen else self._recorded(batch)
        self.losses.add(loss)
        if batch.private is not None:
            self._sum, self._count = self._sum + loss, self._count + 1

    def _step(self, batch: StepBatch, *, frozen: bool = False) -> Tensor:
        """One step of all optimizers; the loss of its task and of what is added to it."""
        site = self._site
        loss = torch.zeros((), device=site.device)
        if batch.private is not None and self._private is None:
            loss = loss + site.task_loss(batch.private)
        for optimizer in site.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        terms = Terms(None, None) if batch.public is None else self._terms(batch.public)
        placed = self._place_private(batch)
        by_itself = None if placed is None else site.model.head_loss(site.config)
        if by_itself is not None:
            loss = loss + by_itself
        whole = loss if terms.joint is None else loss + terms.joint
        self._backward(loss, whole, terms, balanced=placed is not None)
        if frozen:
            for parameter in self._encoder_parameters:
                parameter.grad = None
        nn.utils.clip_grad_norm_(self._clipped, site.config.client.clip_norm)
        for name in ("main", "fusion"):
            if name in site.optimizers:
                site.optimizers[name].step()
        return whole.detach() if placed is None else whole.detach() + placed

    def _place_private(self, batch: StepBatch) -> Tensor | None:
        """Where training is private: the noised gradient of the step's samples, to which all others are added."""
        if self._private is None or batch.private is None:
            return None
        return self._private.set_gradients(batch.private, self._where)

    def _terms(self, batch: PublicBatch) -> Terms:
        assert self._regularise is not None
        with untouched_statistics(self._site.model):
            features = {m: encoder(batch.rows[m]).vector_BD for m, encoder in self._site.encoders.items()}
        return self._regularise(features, batch.public_rows)

    def _backward(self, task: Tensor, whole: Tensor, terms: Terms, *, balanced: bool = False) -> None:
        """`balanced`: parameters hold a part of the task's gradient already."""
        if terms.adversarial is None:
            if whole.requires_grad:
                torch.autograd.backward(whole)
        elif not whole.requires_grad and not balanced:
            torch.autograd.backward(terms.adversarial)
        else:
            share = self._site.config.alignment.max_gradient_share
            apart = whole.device.type != "cpu" and terms.joint is not None
            backward_balanced(
                task if apart else whole,
                terms.adversarial,
                self._encoder_parameters,
                joint_loss=terms.joint if apart else None,
                max_share=share,
            )
