"""Mutated uploads, states, bundles and configurations: each reader takes them or raises an error of ours, in words.

Readers run in this process, so that thousands of files cost seconds. That the services hold under what they refuse is
in test_rpcs.py and test_uploads.py.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import strategies as st
from safetensors.numpy import save
from tests.end_to_end.federation import FEDERATION, TINY_IMAGE, agent_config
from tests.fuzz.files import bytes_like, json_values, tensors_like
from tests.fuzz.long import fuzz

from fedafd.artifacts.folders import pack_folder, unpack_folder
from fedafd.artifacts.manifest import read_manifest
from fedafd.artifacts.merged_states import check_merged_states, encode_merged_states
from fedafd.artifacts.model_parts import BundleBase, FilePieces, Parts, join_parts, pack_parts, read_parts
from fedafd.artifacts.representations import check_representations, decode_representations, encode_representations
from fedafd.artifacts.weight_updates import check_weight_update
from fedafd.domain.config import FederationConfig, WireDtype
from fedafd.domain.config.reading import read_agent_config, read_federation_config, read_region_config
from fedafd.domain.errors import FedafdError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.bundle_size import bundle_facts
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.ensemble import aggregate, fold_state, merge_states
from fedafd.learning.lora import merged_files
from fedafd.learning.sample_encoder import SampleEncoder

EXAMPLES = 150
N, D = 6, 8
PUBLIC = "a" * 64
ROWS_ND = np.eye(N, D, dtype=np.float32)
CONFIG = FederationConfig.model_validate({"name": "trial", "embedding_dim": D})


def refused_or_taken(read: Callable[[Any], object]) -> Callable[[Any], None]:
    """Call `read`; a refusal is an error of ours that says something, and not too much."""

    def attack(example: Any) -> None:
        refusal(read, example)

    return attack


def refusal(read: Callable[[Any], object], example: Any) -> str | None:
    """What an error of ours says; None where the example is taken."""
    said = None
    try:
        read(example)
    except FedafdError as error:
        said = str(error)
    assert said is None or 10 < len(said) < 20_000, said
    return said


@pytest.mark.parametrize("dtype", list(WireDtype))
def test_representations(tmp_path: Path, dtype: WireDtype) -> None:
    reps = dict.fromkeys(Modality, ROWS_ND)
    blob, file = encode_representations(reps, PUBLIC, dtype), tmp_path / "blob"
    expected: dict[str, Any] = {"modalities": list(Modality), "num_samples": N, "embedding_dim": D}
    expected |= {"public_set_sha256": PUBLIC, "dtype": dtype}

    def both(mutated: bytes) -> None:
        """As a file is checked and as bytes are read: the same ones pass."""
        file.write_bytes(mutated)
        checked = refusal(lambda path: check_representations(path, **expected), file)
        decoded = refusal(lambda content: decode_representations(content, **expected), mutated)
        assert (checked is None) == (decoded is None), (checked, decoded)

    both(blob)
    fuzz(tensors_like(blob), both, EXAMPLES)


def test_merged_states_of_a_region(tmp_path: Path) -> None:
    states = {m: fold_state(CONFIG, m, ROWS_ND, dict.fromkeys(Modality, ROWS_ND)) for m in Modality}
    blob = encode_merged_states(states, public_set_sha256=PUBLIC, global_sha256="b" * 64, total=1)
    file = tmp_path / "blob"

    def read(mutated: bytes) -> None:
        file.write_bytes(mutated)
        check_merged_states(
            file, CONFIG, num_samples=N, public_set_sha256=PUBLIC, global_sha256="b" * 64, max_clients=3
        )

    read(blob)
    fuzz(tensors_like(blob), refused_or_taken(read), EXAMPLES)


def test_states_of_the_ensemble() -> None:
    state = fold_state(CONFIG, Modality.IMAGE, ROWS_ND, dict.fromkeys(Modality, ROWS_ND))

    def read(mutated: bytes) -> None:
        merge_states([state, mutated])
        aggregate(CONFIG, mutated)

    read(state)
    fuzz(tensors_like(state), refused_or_taken(read), EXAMPLES)


def test_weights_of_a_client(tmp_path: Path) -> None:
    from fedafd.artifacts.weight_updates import group_name, layout_of

    tensors: dict[str, Any] = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}
    layout = layout_of({name: (str(value.dtype), value.shape) for name, value in tensors.items()})
    meta = {"group": group_name(ClientKind.IMAGE, layout, "x1"), "num_private_samples": 5}
    blob = save(tensors, metadata={"meta": json.dumps(meta)})

    def read(content: bytes) -> None:
        (tmp_path / "weights").write_bytes(content)
        check_weight_update(tmp_path / "weights", ClientKind.IMAGE)

    read(blob)
    fuzz(tensors_like(blob), refused_or_taken(read), EXAMPLES)


def test_checkpoints() -> None:
    kept, module = Checkpoint(meta={"step": 3}), torch.nn.Linear(3, 2)
    kept.add_module("encoder", module)

    def read(mutated: bytes) -> None:
        Checkpoint.from_bytes(mutated).load_module("encoder", module)

    read(kept.to_bytes())
    fuzz(tensors_like(kept.to_bytes()), refused_or_taken(read), EXAMPLES)


def encoder_files() -> dict[str, bytes]:
    from fedafd.domain.config import EncoderConfig

    torch.manual_seed(0)
    return SampleEncoder(EncoderConfig.model_validate(TINY_IMAGE), Modality.IMAGE, dim=D).to_files()


def test_encoder_bundles(tmp_path: Path) -> None:
    files, path = encoder_files(), tmp_path / "bundle"

    def read(mutated: bytes) -> None:
        SampleEncoder.from_files(merged_files(unpack_folder(mutated)))

    def weigh(mutated: bytes) -> None:
        path.write_bytes(mutated)
        bundle_facts(path)

    described = json.loads(files["config.json"])
    keys = st.sampled_from(sorted(described)) | st.sampled_from(sorted(described["encoder"]))

    def configured(key: str, value: Any) -> bytes:
        made = {**described, "encoder": dict(described["encoder"])}
        (made if key in described and key != "encoder" else made["encoder"])[key] = value
        return pack_folder(files | {"config.json": json.dumps(made).encode()})

    def weighted(weights: bytes) -> bytes:
        return pack_folder(files | {"model.safetensors": weights})

    read(pack_folder(files))
    weigh(pack_folder(files))
    bundles = st.one_of(
        bytes_like(pack_folder(files)),
        st.sampled_from(sorted(files)).map(lambda name: pack_folder({k: v for k, v in files.items() if k != name})),
        st.builds(configured, keys, json_values()),
        tensors_like(files["model.safetensors"]).map(weighted),
    )
    fuzz(bundles, refused_or_taken(read), EXAMPLES // 3)
    fuzz(bundles, refused_or_taken(weigh), EXAMPLES // 3)


def test_models_in_parts() -> None:
    """Whatever the parts say, what is put together has its length and its hash, or is refused."""
    base, new = b"of a bundle" * 10, b"new bytes!"
    content = base[:20] + new
    file = FilePieces(path="a.json", sha256=sha256_of(content), size_bytes=30, pieces=[[1, 0, 20], [0, 0, 10]])
    parts = Parts(bases=[BundleBase(sha256=sha256_of(base))], files=[file])

    def take(blob: bytes) -> None:
        found = read_parts(io.BytesIO(blob))
        if found is None:
            return
        whole = join_parts(*found, lambda _, start, length: iter([base[start : start + length]]))
        for (_, content), announced in zip(whole, found[0].files, strict=True):
            got = b"".join(content)
            assert (len(got), sha256_of(got)) == (announced.size_bytes, announced.sha256)

    values = parts.model_dump(mode="json")
    (of_file,), (of_base,) = values["files"], values["bases"]
    changed = st.one_of(
        st.builds(lambda key, value: {**values, key: value}, st.sampled_from([*values, "x"]), json_values()),
        st.builds(
            lambda key, value: {**values, "files": [{**of_file, key: value}]},
            st.sampled_from([*of_file, "x"]),
            json_values(),
        ),
        st.builds(
            lambda key, value: {**values, "bases": [{**of_base, key: value}]},
            st.sampled_from([*of_base, "x"]),
            json_values(),
        ),
        st.lists(st.lists(json_values(), max_size=4)).map(
            lambda pieces: {**values, "files": [{**of_file, "pieces": pieces}]}
        ),
    )
    described = changed.map(lambda each: pack_folder({"parts.json": json.dumps(each).encode(), "new": new}))
    take(pack_parts(parts, new))
    fuzz(bytes_like(pack_parts(parts, new)) | described, refused_or_taken(take), EXAMPLES)


def test_manifests() -> None:
    shard = {"split": "train", "name": "a.parquet", "sha256": PUBLIC, "size_bytes": 5, "num_rows": 6}
    whole = {"version": 1, "shards": [shard]}
    made = st.builds(
        lambda key, value: json.dumps({**whole, key: value}).encode(), st.sampled_from([*whole, "x"]), json_values()
    )
    shards = st.builds(
        lambda key, value: json.dumps({**whole, "shards": [{**shard, key: value}]}).encode(),
        st.sampled_from([*shard, "x"]),
        json_values(),
    )
    fuzz(bytes_like(json.dumps(whole).encode()) | made | shards, refused_or_taken(read_manifest), EXAMPLES)


AGENT: dict[str, Any] = agent_config("pairs", Path("state"), "127.0.0.1:7443") | {
    "policy": {"max_epochs": 3, "public_sets": [PUBLIC], "hours": "08:00-17:00"},
    "privacy": {"noise": 0.1},
    "tls": {"authorities": "a.pem"},
}
REGION = {"aggregator": "127.0.0.1:7443", "federation": "trial", "state_dir": "state"}
READERS: dict[str, tuple[Callable[[Path], object], dict[str, Any]]] = {
    "agent": (read_agent_config, AGENT),
    "federation": (read_federation_config, FEDERATION),
    "region": (read_region_config, REGION),
}


def documents(values: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """YAML of these values with some replaced, at any depth, and with bytes changed."""
    paths = list(_paths(values))
    replaced = st.builds(lambda path, value: _put(values, path, value), st.sampled_from(paths), json_values())
    dates = st.sampled_from(["2024-01-01", "!!python/object:os.system x", "&a [*a]", "<<: 5", "0x7f", "1_000", ".inf"])
    text = yaml.safe_dump(values)
    odd = st.builds(lambda line, at: _line(text, line, at), dates, st.integers(0, 200))
    return replaced.map(lambda made: yaml.dump(made).encode()) | bytes_like(text.encode()) | odd.map(str.encode)


def _paths(values: Any, below: tuple[str, ...] = ()) -> Any:
    for key, value in values.items() if isinstance(values, dict) else ():
        yield (*below, key)
        yield from _paths(value, (*below, key))


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return {**values, path[0]: value if len(path) == 1 else _put(values[path[0]], path[1:], value)}


def _line(text: str, line: str, at: int) -> str:
    """The text with what stands behind a colon replaced."""
    lines = text.splitlines()
    number = at % len(lines)
    lines[number] = f"{lines[number].partition(':')[0]}: {line}"
    return "\n".join(lines)


@pytest.mark.parametrize("name", READERS)
def test_configurations(tmp_path: Path, name: str) -> None:
    read, values = READERS[name]
    file = tmp_path / f"{name}.yaml"

    def attack(content: bytes) -> None:
        file.write_bytes(content)
        said = refusal(read, file)
        assert said is None or str(file) in said

    fuzz(documents(values), attack, EXAMPLES)
