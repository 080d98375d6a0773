"""Private data whose samples have several labels, or none: what tests of `multi-label` share."""

from __future__ import annotations

import dataclasses

import numpy as np
from tests.learning.tiny import tiny_private

from fedafd.datasets.labels import label_sets
from fedafd.datasets.samples import ClientData, PairSplit, Split
from fedafd.domain.kinds import ClientKind

# Each of the eight shapes as a set of these, so that one label is in several of them and one shape has none.
LABELS = ("corners", "round", "thin")
_SETS = ((1,), (0,), (0,), (0, 2), (1, 2), (0,), (0,), ())


def several_labels(kind: ClientKind) -> ClientData:
    """tiny_private with such sets."""
    data = tiny_private(kind)
    train, val, test = (_labelled(split) for split in (data.train, data.val, data.test))
    return dataclasses.replace(data, train=train, val=val, test=test, labels=LABELS)


def _labelled(split: Split) -> Split:
    assert not isinstance(split, PairSplit)
    sets = label_sets([_SETS[int(label)] for label in split.labels], len(LABELS))
    assert sets.dtype == np.uint8
    return dataclasses.replace(split, labels=sets)
