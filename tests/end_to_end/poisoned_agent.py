"""An agent whose representations hold a NaN: what a broken or hostile site would send."""

from __future__ import annotations

import numpy as np

from fedafd.agent import main as agent_main
from fedafd.agent import site
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.kinds import Modality

_honest = encode_representations


def _poisoned(reps: dict[Modality, np.ndarray], public_set_sha256: str, dtype: WireDtype) -> bytes:
    for rows in reps.values():
        rows[3, 1] = np.nan
    return _honest(reps, public_set_sha256, dtype)


site.encode_representations = _poisoned

if __name__ == "__main__":
    agent_main.main()
