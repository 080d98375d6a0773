"""The small text backbone: word embeddings, a bidirectional GRU, and attention over tokens.

Source: structured self-attention, arXiv 1703.03130.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BiGru"]


class BiGru(nn.Module):
    """Positions are tokens; the attention is their weight. Ids are padded with 0."""

    def __init__(
        self, vocabulary: int, embedding_size: int = 300, hidden_size: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.forward_gru = nn.GRU(embedding_size, hidden_size, batch_first=True)
        self.backward_gru = nn.GRU(embedding_size, hidden_size, batch_first=True)
        self.attention = nn.Linear(2 * hidden_size, 1)
        self.channels = 2 * hidden_size

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        # Padding at the end costs a CPU time; a GPU would have to be waited for to know where it starts.
        longest = max(1, int((ids != 0).sum(1).max())) if ids.device.type == "cpu" else ids.shape[1]
        ids = ids[:, :longest]
        embedded = self.dropout(self.embedding(ids))
        # Reversing the valid part of each row stands for packing, which takes twice the time on a CPU.
        position = torch.arange(longest, device=ids.device).expand_as(ids)
        mirrored = (ids != 0).sum(1, keepdim=True) - 1 - position
        mirror = torch.where(mirrored >= 0, mirrored, position).unsqueeze(-1)
        backward, _ = self.backward_gru(embedded.gather(1, mirror.expand_as(embedded)))
        backward = backward.gather(1, mirror.expand_as(backward))
        hidden = torch.cat([self.forward_gru(embedded)[0], backward], dim=-1)
        score = self.attention(hidden).squeeze(-1).masked_fill(ids == 0, float("-inf"))
        score = torch.where((ids != 0).any(1, keepdim=True), score, torch.zeros_like(score))
        return hidden, score.softmax(-1)
