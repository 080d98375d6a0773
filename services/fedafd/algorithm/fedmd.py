"""FedMD, a rival that FedAFD is compared with: sites digest the consensus, which is the plain mean of the clients.

`MeanEnsemble` is a state of SED with equal weights, so it lives beside SED; this is its name here.
Source: FedMD, arXiv 1910.03581, with representations in place of class scores.
Shape legend: B public samples of the batch, N public samples, D embedding dimension.
"""

from __future__ import annotations

from torch import Tensor

from fedafd.algorithm.distillation import MeanEnsemble

__all__ = ["MeanEnsemble", "digest_loss"]


def digest_loss(features_BD: Tensor, consensus_BD: Tensor) -> Tensor:
    """The squared distance of each row to the consensus, as the mean over the batch."""
    return (features_BD - consensus_BD).square().sum(-1).mean()
