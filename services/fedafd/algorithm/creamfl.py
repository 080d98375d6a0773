"""CreamFL, the rival that FedAFD is compared with: two contrasts at the client, contrastive weights at the server.

Source: CreamFL, arXiv 2302.08888: inter-modal and intra-modal contrast (its local regularisation), and its
global-local contrastive aggregation. The temperatures are ours to choose; rows are unit vectors.
Shape legend: B public samples of the batch, N public samples, D embedding dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedafd.algorithm.alignment import info_nce
from fedafd.algorithm.checks import check_positive, check_same_shape, check_shape, compute_dtype
from fedafd.algorithm.distillation import SimilarityEnsemble

__all__ = ["ContrastiveEnsemble", "inter_modal_contrast", "intra_modal_contrast"]


def inter_modal_contrast(
    features_BD: Tensor, other_global_ND: Tensor, rows_B: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """Pick, among the other modality's global representations of all N public samples, the one of the same sample.

    Mean of -log softmax over N, a scalar. `rows_B`: the public rows of the batch. Raises InvalidTensorError.
    """
    return info_nce(features_BD, other_global_ND.detach(), rows_B, temperature=temperature)


def intra_modal_contrast(
    features_BD: Tensor, global_BD: Tensor, previous_BD: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """Be nearer to the same modality's global representation than to one's own of the round before.

    Mean of -log(e^g / (e^g + e^p)), g and p the cosines over `temperature`; a scalar. Raises InvalidTensorError.
    """
    check_positive("temperature", temperature)
    check_shape("features_BD", features_BD, None, None)
    check_same_shape("global_BD", global_BD, "features_BD", features_BD)
    check_same_shape("previous_BD", previous_BD, "features_BD", features_BD)
    dtype = compute_dtype(features_BD, global_BD)
    with torch.autocast(features_BD.device.type, enabled=False):
        features = F.normalize(features_BD.to(dtype), dim=-1)
        towards = (features * F.normalize(global_BD.detach().to(dtype), dim=-1)).sum(-1)
        away = (features * F.normalize(previous_BD.detach().to(dtype), dim=-1)).sum(-1)
        return F.softplus((away - towards) / temperature).mean()


class ContrastiveEnsemble(SimilarityEnsemble):
    """CreamFL's aggregation in the state of SED: `global_reps` [N, D] are those of the *other* modality.

    Score of a client on item n: <x_n, g_n> / tau - log sum over j other than n of exp(<x_n, g_j> / tau).
    """

    def _scores(self, reps_ND: Tensor) -> Tensor:
        log_share_N = super()._scores(reps_ND)
        # log(p / (1 - p)): leaving the own item out of the normaliser of p turns a log-softmax into a logit.
        tiny = torch.finfo(log_share_N.dtype).eps
        return log_share_N - torch.log(-torch.expm1(log_share_N.clamp(max=-tiny)))
