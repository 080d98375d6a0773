"""The BiGRU without packing equals torch's bidirectional GRU on packed sequences."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedafd.domain.config import EncoderConfig
from fedafd.domain.kinds import Modality
from fedafd.learning.encoders import build_encoder


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_reversal_stands_for_packing(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    config = EncoderConfig(architecture="bigru", options={"embedding_size": 6, "hidden_size": 5, "dropout": 0.0})
    encoder = build_encoder(config, Modality.TEXT, dim=4, vocabulary=30)
    ids = torch.zeros(len(lengths), 12, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, 30, (length,))
    packed = nn.GRU(6, 5, batch_first=True, bidirectional=True)
    backbone = encoder.backbone
    for suffix, part in (("", backbone.forward_gru), ("_reverse", backbone.backward_gru)):
        for name, value in part.state_dict().items():  # type: ignore[union-attr]
            packed.state_dict()[name + suffix].copy_(value)
    sequence = nn.utils.rnn.pack_padded_sequence(
        backbone.embedding(ids),  # type: ignore[operator]
        torch.tensor(lengths),
        batch_first=True,
        enforce_sorted=False,
    )
    wanted, _ = nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    hidden, weights = backbone(ids)
    present = ids[:, : max(lengths)] != 0
    torch.testing.assert_close(hidden[present], wanted[present])
    torch.testing.assert_close(weights.sum(1), torch.ones(len(lengths)))
    assert not weights[~present].any()
