"""An agent whose representations hold a NaN: what a broken or hostile site would send."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedafd.agent import main as agent_main
from fedafd.agent import site
from fedafd.artifacts.representations import encode_representations
from fedafd.domain.config import WireDtype
from fedafd.domain.kinds import Modality


def _poisoned(reps: Mapping[Modality, NDArray[np.float32]], public_set_sha256: str, dtype: WireDtype) -> bytes:
    for rows in reps.values():
        rows[3, 1] = np.nan
    return encode_representations(reps, public_set_sha256, dtype)


site.encode_representations = _poisoned  # type: ignore[attr-defined, assignment]

if __name__ == "__main__":
    agent_main.main()
