"""A reader of bytes under a fuzzer that follows its lines (atheris): `python -m tests.fuzz.guided NAME FOLDER`.

Further arguments are libFuzzer's. FOLDER keeps what reached new lines; an input that broke something lies there as
`crash-*`. The process ends with another exit code than 0 then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["fedafd"]):
    import numpy as np
    import torch
    from google.protobuf.message import DecodeError, Message
    from safetensors.numpy import save

    from fedafd.aggregator.delivery import _check_numbers
    from fedafd.aggregator.distillation_service import _completion
    from fedafd.aggregator.enrolling import _nonce, _version
    from fedafd.aggregator.uploads import _check_manifest
    from fedafd.artifacts.manifest import read_manifest
    from fedafd.artifacts.merged_states import check_merged_states, encode_merged_states
    from fedafd.artifacts.representations import check_representations, encode_representations
    from fedafd.artifacts.weight_updates import check_weight_update, group_name, layout_of
    from fedafd.domain.config import FederationConfig, WireDtype
    from fedafd.domain.errors import FedafdError
    from fedafd.domain.kinds import ClientKind, Modality, UploadPurpose
    from fedafd.learning.checkpoint import Checkpoint
    from fedafd.learning.ensemble import aggregate, fold_state, merge_states
    from fedafd.proto.v1 import aggregator_pb2 as pb
    from fedafd.proto.v1 import distillation_pb2 as dpb

N, D = 6, 8
PUBLIC, GLOBAL = "a" * 64, "b" * 64
ROWS_ND = np.eye(N, D, dtype=np.float32)
REPS = dict.fromkeys(Modality, ROWS_ND)
CONFIG = FederationConfig.model_validate({"name": "trial", "embedding_dim": D})
STATES = {modality: fold_state(CONFIG, modality, ROWS_ND, REPS) for modality in Modality}
Reader = Callable[[bytes], object]


def as_file(file: Path, check: Callable[[Path], object]) -> Reader:
    """A reader of bytes of one that takes a file."""

    def read(content: bytes) -> None:
        file.write_bytes(content)
        check(file)

    return read


def readers(file: Path) -> Mapping[str, tuple[bytes, Reader]]:
    """By name what is good, and who reads it."""
    of_rows: dict[str, Any] = {"modalities": list(Modality), "num_samples": N, "embedding_dim": D}
    of_rows |= {"public_set_sha256": PUBLIC, "dtype": WireDtype.FLOAT16}
    of_region: dict[str, Any] = {"num_samples": N, "public_set_sha256": PUBLIC, "global_sha256": GLOBAL}
    state = STATES[Modality.IMAGE]
    module, kept = torch.nn.Linear(3, 2), Checkpoint(meta={"step": 3})
    kept.add_module("encoder", module)
    shard = {"split": "train", "name": "a.parquet", "sha256": PUBLIC, "size_bytes": 5, "num_rows": 6}
    merged = encode_merged_states(STATES, public_set_sha256=PUBLIC, global_sha256=GLOBAL, total=1)
    return {
        "representations": (
            encode_representations(REPS, PUBLIC, WireDtype.FLOAT16),
            as_file(file, lambda path: check_representations(path, **of_rows)),
        ),
        "merged-states": (
            merged,
            as_file(file, lambda path: check_merged_states(path, CONFIG, max_clients=3, **of_region)),
        ),
        "state": (state, lambda content: aggregate(CONFIG, merge_states([state, content]))),
        "weights": (_weights(), as_file(file, lambda path: check_weight_update(path, ClientKind.IMAGE))),
        "checkpoint": (
            kept.to_bytes(),
            lambda content: Checkpoint.from_bytes(content).load_module("encoder", module),
        ),
        "manifest": (json.dumps({"version": 1, "shards": [shard]}).encode(), read_manifest),
    } | {name: (good.SerializeToString(), _of_message(good, check)) for name, (good, check) in REQUESTS.items()}


def _weights() -> bytes:
    tensors: dict[str, Any] = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}
    layout = layout_of({name: (str(value.dtype), value.shape) for name, value in tensors.items()})
    meta = {"group": group_name(ClientKind.IMAGE, layout, "x1"), "num_private_samples": 5}
    return save(tensors, metadata={"meta": json.dumps(meta)})


def _of_message(good: Message, check: Callable[[Any], object]) -> Reader:
    def read(content: bytes) -> None:
        try:
            message = type(good).FromString(content)
        except DecodeError:  # which gRPC answers by itself
            return
        check(message)

    return read


REQUESTS: Mapping[str, tuple[Message, Callable[[Any], object]]] = {
    "BeginUpload": (
        pb.BeginUploadRequest(sha256=PUBLIC, size_bytes=70_000, chunk_size_bytes=65_536, chunk_sha256=[PUBLIC, GLOBAL]),
        lambda request: _check_manifest(request, UploadPurpose.REPRESENTATIONS, CONFIG),
    ),
    "CommitUpload": (
        pb.CommitUploadRequest(round_id="c" * 32, upload_ids=["d"], metrics={"local/acc1": 5.0}, num_private_samples=3),
        _check_numbers,
    ),
    "Enroll": (
        pb.EnrollRequest(token="t", nonce=b"n" * 32, software=pb.SoftwareVersion(minor=1)),
        lambda request: (_nonce(request), _version(request)),
    ),
    "CompleteStage": (dpb.CompleteStageRequest(stage_id="e" * 32, token=1, metrics={"rsum": 5.0}), _completion),
}


def main() -> None:
    """Fuzz one reader until libFuzzer's limits; it ends the process."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    good, read = readers(folder.with_name(f"{folder.name}.blob"))[name]
    read(good)
    folder.mkdir(exist_ok=True)
    (folder / "good").write_bytes(good)

    def attack(content: bytes) -> None:
        said = None
        try:
            read(content)
        except FedafdError as error:
            said = str(error)
        assert said is None or 10 < len(said) < 20_000, said

    atheris.Setup([sys.argv[0], str(folder), f"-artifact_prefix={folder}/", *sys.argv[3:]], attack)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
