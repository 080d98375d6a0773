"""Pickles and npz files that are hostile or damaged are refused, and nothing in them is ever executed."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.datasets import makers
from tests.datasets.test_bad_data import refused

from fedafd.datasets import load_client_data
from fedafd.datasets.plain_pickle import load_plain_pickle
from fedafd.domain.errors import DataError
from fedafd.domain.kinds import ClientKind

# -- pickles ---------------------------------------------------------------------------------------------------------


class Evil:
    """What an attacker would put into a pickle."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "call",
    [
        lambda path: Evil(os.system, f"touch {path}"),
        lambda path: Evil(eval, f"open({str(path)!r}, 'w')"),
        lambda path: Evil(exec, f"open({str(path)!r}, 'w')"),
        lambda path: Evil(open, str(path), "w"),
        lambda path: Evil(getattr, "text", "upper"),
        lambda path: Evil(np.fromfile, str(path)),
        lambda path: Evil(__import__, "antigravity"),
    ],
    ids=["system", "eval", "exec", "open", "getattr", "fromfile", "import"],
)
def test_a_malicious_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, call: Callable[[Path], Evil], protocol: int
) -> None:
    mark = tmp_path / "executed"
    content = {"data": call(mark), "fine_labels": [0]}
    folder = makers.cifar_official(tmp_path / "cifar", train=pickle.dumps(content, protocol))
    refused(
        "cifar100", folder, r"cifar/train: refused, because it is not plain data: .* is not allowed", ClientKind.IMAGE
    )
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02ccopyreg\n_reconstructor\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        b"(ios\nsystem\nS'true'\n.",
        b"\x80\x02cnumpy\nndarray\nq\x00(K\x01tR}X\x05\x00\x00\x00__a__K\x01sb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\nK\x00\x85U\x01btR.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02\x8c",
        b"",
        b"\x80\x63",
        b"P1\n.",
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"\x80\x02cnumpy\ndtype\n}X\x08\x00\x00\x00restore__K\x01sb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.",
        b"\x80\x02]r\xff\xff\xff\x7fcos\nsystem\n.",
        b"\x82\x01.",
    ],
)
def test_hand_made_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="meta: refused"):
        load_plain_pickle(content, "meta")


@settings(deadline=None, max_examples=600)
@given(protocol=st.integers(0, 5), data=st.data())
def test_a_mutated_pickle_is_read_or_refused_and_nothing_else(protocol: int, data: st.DataObject) -> None:
    """NumPy's own reconstruction crashed the interpreter on some of these."""
    good = bytearray(pickle.dumps({b"data": np.zeros((2, 4), np.uint8), b"fine_labels": [1, 2]}, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_plain_pickle(bytes(good), "train")
    except DataError:
        pass


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"train": {b"data": np.zeros((4, 3072), np.uint8)}}, "cifar/train: has no entry 'fine_labels'"),
        ({"train": {b"data": np.zeros((4, 3000), np.uint8), b"fine_labels": [0] * 4}}, "cifar/train: `data` is not"),
        ({"train": {b"data": np.zeros((4, 3072)), b"fine_labels": [0] * 4}}, "cifar/train: `data` is not a uint8"),
        ({"train": {b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": ["a"] * 4}}, "`fine_labels` is not a list"),
        ({"train": {b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": [0] * 3}}, "cifar/train"),
        (
            {"test": {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 3]}},
            "cifar/test: labels must be 0 to 2",
        ),
        ({"meta": {b"fine_label_names": "apple"}}, "cifar/meta: 'fine_label_names' is not a list of names"),
        ({"meta": [1, 2]}, "cifar/meta: has no entry 'fine_label_names'"),
        ({"test": b"\x80\x02"}, "cifar/test: refused"),
    ],
)
def test_official_cifar_files_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    refused("cifar100", makers.cifar_official(tmp_path / "cifar", **changes), match, ClientKind.IMAGE)


# -- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"val_labels": None}, "cifar.npz: not the expected arrays: .*val_labels"),
        ({"train_images": np.zeros((8, 3, 32, 32), np.uint8)}, "cifar.npz: train: images must be uint8 of shape"),
        ({"train_images": np.zeros((8, 32, 32, 3), np.float32)}, "cifar.npz: train: images must be uint8"),
        ({"train_images": np.zeros((8, 0, 32, 3), np.uint8)}, r"train: no images, or images without a pixel: .*\[8, 0"),
        ({"train_images": np.zeros((0, 32, 32, 3), np.uint8), "train_labels": np.zeros(0, int)}, "train: no images"),
        ({"test_labels": np.array([0, 1, 2, 9])}, "cifar.npz: test: labels must be 0 to 3, found 0 to 9"),
        ({"test_labels": np.array([0, -1, 2, 3])}, "test: labels must be 0 to 3, found -1 to 3"),
        ({"test_labels": np.array([0, 1])}, "test: 4 images but 2 labels"),
        ({"test_labels": np.array([0.5, 1, 2, 3])}, "test: labels must be whole numbers"),
        ({"test_labels": np.zeros((4, 1), int)}, "test: labels must be whole numbers"),
        ({"class_names": np.array(["a", "b", "a", "c"])}, "cifar.npz: class_names: 'a' is the name of two or more"),
        ({"class_names": np.array(["a", " ", "b", "c"])}, "cifar.npz: class_names: name 1: a class has an empty name"),
        ({"class_names": np.array([b"a", b"\xff", b"b", b"c"])}, "cifar.npz: class_names: name 1 is not UTF-8"),
        ({"class_names": np.array([0.0, 1.5, 2.0, 3.0])}, "cifar.npz: class_names must be texts or whole numbers"),
        ({"class_names": np.array([["a", "b"]])}, "cifar.npz: class_names must be texts or whole numbers"),
        (
            {"train_labels": np.array([0, 1, 2, 0, 1, 2, 0, 1])},
            r"no training sample of class 'class3' \(1 in val, 1 in",
        ),
        ({"train_labels": np.array(["a", "b"] * 4)}, "train: labels must be whole numbers"),
        ({"class_names": np.array([{"a": 1}], dtype=object)}, "cifar.npz: not the expected arrays: .*pickle"),
    ],
)
def test_npz_files_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    refused("cifar100", makers.cifar_npz(tmp_path, **changes), match, ClientKind.IMAGE)


@pytest.mark.parametrize("keep", [0, 10, 1000, -5])
def test_a_truncated_npz_is_refused(tmp_path: Path, keep: int) -> None:
    path = makers.cifar_npz(tmp_path) / "cifar.npz"
    path.write_bytes(path.read_bytes()[:keep])
    refused("cifar100", tmp_path, "cifar.npz: not the expected arrays", ClientKind.IMAGE)


@pytest.mark.parametrize("header", [b"{(", b"{\n  'a'\n 'b'", b"{'descr': \x00}"], ids=["bracket", "indent", "null"])
def test_an_npz_whose_header_is_no_python_is_refused(tmp_path: Path, header: bytes) -> None:
    with zipfile.ZipFile(makers.cifar_npz(tmp_path) / "cifar.npz", "w") as archive:
        archive.writestr("train_images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    refused("cifar100", tmp_path, "cifar.npz: not the expected arrays", ClientKind.IMAGE)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_mutated_npz_is_read_or_refused_and_nothing_else(tmp_path: Path, position: int, value: int) -> None:
    if not (tmp_path / "cifar.npz").exists():
        makers.cifar_npz(tmp_path)
        (tmp_path / "good").write_bytes((tmp_path / "cifar.npz").read_bytes())
    content = bytearray((tmp_path / "good").read_bytes())
    content[position % len(content)] = value
    (tmp_path / "cifar.npz").write_bytes(content)
    try:
        load_client_data("cifar100", tmp_path, ClientKind.IMAGE)
    except DataError:
        pass
