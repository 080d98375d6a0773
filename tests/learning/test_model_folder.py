"""Model folders: whatever is missing or wrong in one is named, and nothing in one is executed or fetched."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.learning.tiny import personalized_folder, tiny_bundles, tiny_global, tiny_private, write_files

from fedafd import GlobalModel, PersonalizedModel
from fedafd.artifacts.folders import unpack_folder
from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError, DataError, FedafdError, InvalidRequestError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning.encoders import build_encoder
from fedafd.learning.sample_encoder import SampleEncoder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `image`, `text`, `pair` and `global`; tests change copies."""
    root = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)
    for kind in ClientKind:
        personalized_folder(kind, root / kind.value)
    write_files(tiny_global(), root / "global")
    # As of a maker that wrote none, so that files can be changed; tests/learning/test_model_sums.py is about them.
    for sums in root.glob("*/SHA256SUMS"):
        sums.unlink()
    return root


@pytest.fixture
def image_model(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "image", tmp_path / "model")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    tried: list[Any] = []

    def refuse(_: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("this test has no network")

    def refuse_name(host: Any, *_: Any, **__: Any) -> None:
        tried.append(host)
        raise socket.gaierror("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_name)
    yield tried
    assert tried == []


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_bytes())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "local/image/config.json",
        "local/image/model.safetensors",
        "global/image/config.json",
        "global/image/model.safetensors",
    ],
)
def test_a_missing_file_is_named(image_model: Path, name: str) -> None:
    (image_model / name).unlink()
    with pytest.raises(DataError) as caught:
        PersonalizedModel.from_pretrained(image_model)
    told = str(caught.value)
    assert name.rpartition("/")[2] in told and str((image_model / name).parent) in told
    assert "\n" not in told


def test_a_missing_tokenizer_is_named(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "text", tmp_path / "model")
    (folder / "local/text/tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"local/text/tokenizer.json: is missing"):
        PersonalizedModel.from_pretrained(folder)
    (folder / "local/text/tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"local/text/tokenizer.json: is not a tokenizer"):
        PersonalizedModel.from_pretrained(folder)


def test_a_path_that_is_no_model_folder_says_what_it_is(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    site = tmp_path / "site"
    shutil.copytree(made / "text", site / "model")
    for path, told in (
        (tmp_path / "nowhere", "nowhere: no such folder"),
        (tmp_path / "file", "file: is a file; name the folder"),
        (tmp_path / "empty", "empty: not a model folder; it has no config.json"),
        (site, r"site/model\?"),
    ):
        with pytest.raises(DataError, match=told):
            PersonalizedModel.from_pretrained(path)
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="model_type is 'bert'"):
        PersonalizedModel.from_pretrained(tmp_path / "empty")
    with pytest.raises(DataError, match="in Python load it with GlobalModel"):
        PersonalizedModel.from_pretrained(made / "global")
    with pytest.raises(DataError, match="in Python load it with PersonalizedModel"):
        GlobalModel.from_pretrained(made / "pair")


@pytest.mark.parametrize("name", ["model.safetensors", "local/image/model.safetensors"])
def test_a_tensor_that_does_not_fit_is_named(image_model: Path, name: str) -> None:
    kept = load_file(image_model / name)
    first = next(iter(sorted(kept)))
    for tensors, told in (
        ({k: v for k, v in kept.items() if k != first}, f"'{first}' is missing"),
        (kept | {"smuggled": torch.zeros(1)}, "'smuggled' is not of this model"),
        (kept | {first: torch.zeros(3, 5, 7)}, rf"'{first}' has shape \[3, 5, 7\]"),
    ):
        save_file({k: v.clone() for k, v in tensors.items()}, image_model / name)
        with pytest.raises(DataError, match=told) as caught:
            PersonalizedModel.from_pretrained(image_model)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_head_far_larger_than_its_weights_is_not_made(image_model: Path) -> None:
    """A few megabytes of names would be a head of gigabytes for who loads a site's model."""
    change_json(image_model / "config.json", lambda values: values.update(labels=[str(n) for n in range(300_000)]))
    with pytest.raises(DataError, match=r"config.json: .* more than is in its weights"):
        PersonalizedModel.from_pretrained(image_model)


def test_a_labels_list_that_does_not_fit_the_head_is_refused(image_model: Path) -> None:
    change_json(image_model / "config.json", lambda values: values["labels"].append("one too many"))
    with pytest.raises(DataError, match=r"model.safetensors: tensor 'head\..* has shape"):
        PersonalizedModel.from_pretrained(image_model)
    change_json(image_model / "config.json", lambda values: values.update(labels=[1, 2]))
    with pytest.raises(DataError, match="labels must be class names"):
        PersonalizedModel.from_pretrained(image_model)


def test_a_pickle_in_place_of_weights_is_not_opened(image_model: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    for name in ("local/image/model.safetensors", "model.safetensors"):
        (image_model / name).write_bytes(pickle.dumps(Payload()))
    (image_model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match="not a readable safetensors file"):
        PersonalizedModel.from_pretrained(image_model)
    assert not (tmp_path / "ran").exists()


def test_a_git_lfs_pointer_is_told(image_model: Path) -> None:
    (image_model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(DataError, match="Git LFS pointer"):
        PersonalizedModel.from_pretrained(image_model)


@pytest.mark.parametrize("where", ["local/image", "global/image"])
def test_a_folder_that_names_pretrained_weights_never_reaches_for_a_hub(
    image_model: Path, where: str, no_network: list[Any]
) -> None:
    change_json(image_model / where / "config.json", lambda v: v["encoder"].update(pretrained="somebody/weights"))
    with pytest.raises(DataError, match="names pretrained weights 'somebody/weights'"):
        PersonalizedModel.from_pretrained(image_model)


def test_a_servers_bundle_that_names_pretrained_weights_is_refused(no_network: list[Any]) -> None:
    for modality, blob in tiny_bundles().items():
        files = unpack_folder(blob)
        values = json.loads(files["config.json"])
        values["encoder"]["pretrained"] = "somebody/weights"
        with pytest.raises(DataError, match="names pretrained weights"):
            SampleEncoder.from_files(files | {"config.json": json.dumps(values).encode()})
        assert SampleEncoder.from_files(files).modality is modality


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", "somebody/kernel"),
        ("attn_implementation", "flash_attention_2"),
        ("_attn_implementation", "somebody/kernel"),
        ("experts_implementation", "somebody/kernel"),
        ("auto_map", {"AutoModel": "somebody/code--model.Model"}),
        ("trust_remote_code", True),
    ],
)
def test_an_option_that_would_load_code_from_the_hub_is_refused(
    image_model: Path, name: str, value: object, no_network: list[Any]
) -> None:
    change_json(image_model / "global/image/config.json", lambda values: values["backbone"].update({name: value}))
    with pytest.raises(ConfigurationError, match=f"options: {name}: .* may load code"):
        PersonalizedModel.from_pretrained(image_model)
    with pytest.raises(ConfigurationError, match="may load code"):
        build_encoder(EncoderConfig(architecture="resnet", options={name: value}), Modality.IMAGE, dim=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_a_description_is_refused_in_words_or_loads(made: Path, data: st.DataObject) -> None:
    scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.floats(allow_nan=False)
    junk = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=2)
    files = {path.name: path.read_bytes() for path in (made / "text" / "local" / "text").iterdir()}
    values = json.loads(files["config.json"])
    place = data.draw(st.sampled_from([values, values["encoder"], values["backbone"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(junk)
    with contextlib.suppress(FedafdError):
        assert SampleEncoder.from_files(files | {"config.json": json.dumps(values).encode()}).modality is Modality.TEXT


def test_json_that_nests_too_deep_is_refused(image_model: Path) -> None:
    (image_model / "local/image/config.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="local/image/config.json: not readable as JSON"):
        PersonalizedModel.from_pretrained(image_model)


def test_a_device_that_is_not_there_is_refused(made: Path) -> None:
    for device in ("tpu", "cuda:x", "cuda:99"):
        with pytest.raises(ConfigurationError, match=device):
            GlobalModel.from_pretrained(made / "global", device=device)
    assert str(GlobalModel.from_pretrained(made / "global", device="cpu").device) == "cpu"


@pytest.mark.parametrize("kind", ["image", "text"])
def test_top_k_and_branches_agree_with_the_best_label(made: Path, kind: str) -> None:
    model = PersonalizedModel.from_pretrained(made / kind, device="cpu")
    test: Any = tiny_private(ClientKind(kind)).test
    samples = [test.images[i] for i in range(5)] if kind == "image" else list(test.texts[:5])
    best, all_of_them = model.predict(samples), model.predict(samples, top_k=10_000)
    assert [each[0] for each in all_of_them] == best
    for each in all_of_them:
        assert sorted(label for label, _ in each) == sorted(model.labels)
        assert sum(p for _, p in each) == pytest.approx(1, abs=1e-4)
        assert [p for _, p in each] == sorted((p for _, p in each), reverse=True)
    branches = {b: model.predict(samples, top_k=99, branch=b) for b in ("personalized", "own", "global")}
    assert branches["personalized"] == all_of_them
    assert branches["own"] != branches["global"] != branches["personalized"]
    with pytest.raises(InvalidRequestError, match="branch is 'best'"):
        model.predict(samples, branch="best")  # type: ignore[call-overload]
    with pytest.raises(InvalidRequestError, match="top_k is 0"):
        model.predict(samples, top_k=0)


def test_a_sample_gives_the_same_whatever_it_comes_as(made: Path, tmp_path: Path) -> None:
    pixels = tiny_private(ClientKind.IMAGE).test.images[0]  # type: ignore[union-attr]
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (tmp_path / "it.png").write_bytes(buffer.getvalue())
    ways = [pixels, image, tmp_path / "it.png", str(tmp_path / "it.png"), buffer.getvalue(), np.dstack([pixels])]
    for folder, loader in (("global", GlobalModel), ("image", PersonalizedModel)):
        rows = loader.from_pretrained(made / folder, device="cpu").embed_images(ways)
        np.testing.assert_allclose(rows, np.repeat(rows[:1], len(ways), axis=0), atol=1e-6)
    (tmp_path / "it.txt").write_text("two red dogs")
    texts = GlobalModel.from_pretrained(made / "global", device="cpu").embed_texts(
        ["two red dogs", b"two red dogs", tmp_path / "it.txt"]
    )
    np.testing.assert_allclose(texts, np.repeat(texts[:1], 3, axis=0), atol=1e-6)


def test_batches_change_nothing_and_none_is_kept(made: Path) -> None:
    model = PersonalizedModel.from_pretrained(made / "text", device="cpu")
    texts = [f"something {('red', 'round', 'square', 'blue')[i % 4]} number {i}" for i in range(150)]
    drawn, most_ahead = 0, 0

    def stream() -> Iterator[str]:
        nonlocal drawn
        for text in texts:
            drawn += 1
            yield text

    for done, (place, _) in enumerate(model.each_prediction(stream())):
        assert place == done
        most_ahead = max(most_ahead, drawn - done)
    assert drawn == 150 and most_ahead <= 64
    one_by_one = [model.predict([text])[0] for text in texts[:5] + texts[-5:]]
    together = model.predict(iter(texts))
    for (label, odds), (expected, wanted) in zip(one_by_one, together[:5] + together[-5:], strict=True):
        assert label == expected
        assert odds == pytest.approx(wanted, abs=1e-5)


def test_no_samples_give_no_rows(made: Path) -> None:
    assert PersonalizedModel.from_pretrained(made / "image").predict([]) == []
    model = GlobalModel.from_pretrained(made / "global")
    assert model.embed_images([]).shape == model.embed_texts(iter(())).shape == (0, 16)


@pytest.mark.parametrize("one", ["a text", b"text", Path("photo.jpg"), np.zeros((4, 4, 3), np.uint8)], ids=type)
def test_one_sample_in_place_of_many_is_refused(made: Path, one: Any) -> None:
    with pytest.raises(InvalidRequestError, match="put it into a list"):
        GlobalModel.from_pretrained(made / "global").embed_images(one)


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (Path("/nowhere/photo.jpg"), "/nowhere/photo.jpg: no such file"),
        (Path("/dev/zero"), "/dev/zero: is no file"),
        ("nul\0byte", r"nul\\x00byte': no such file"),
        (b"<html>", "image 2: not a readable image"),
        (np.zeros((4, 4, 9), np.uint8), "image 2: "),
        (np.zeros((0, 4, 3), np.uint8), "image 2: "),
        (7, "image 2: .*int"),
    ],
    ids=str,
)
def test_an_image_that_cannot_be_read_is_named(made: Path, sample: Any, told: str) -> None:
    good = np.zeros((4, 4, 3), np.uint8)
    model = GlobalModel.from_pretrained(made / "global")
    with pytest.raises(DataError, match=told):
        model.embed_images([good, sample])
    bad: list[int] = []
    kept = list(model.each_embedded(Modality.IMAGE, [good, sample, good], lambda place, _: bad.append(place)))
    assert [place for place, _ in kept] == [0, 2]
    assert bad == [1]


@pytest.mark.parametrize(
    ("sample", "told"),
    [("\udc80", "text 2: holds half"), (b"caf\xe9", "text 2:1: not UTF-8"), (7, "text 2: is int"), ("\0", "a NUL")],
    ids=repr,
)
def test_a_text_that_cannot_be_read_is_named(made: Path, sample: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        PersonalizedModel.from_pretrained(made / "text").predict(["good", sample])


def test_a_model_reads_deep_pictures_with_the_window_it_was_trained_with(tmp_path: Path) -> None:
    grey = tiny_private(ClientKind.IMAGE).test.images[0][:, :, 0]  # type: ignore[union-attr]
    deep = (grey.astype(np.uint16) * 16 + 8).clip(0, 4095)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    folder = personalized_folder(ClientKind.IMAGE, tmp_path / "model", intensity_range=(8.0, 4088.0))
    model = PersonalizedModel.from_pretrained(folder, device="cpu")
    assert model.intensity_range == (8.0, 4088.0)
    rows = model.embed_images([tmp_path / "deep.png", Image.fromarray(grey)])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    other = PersonalizedModel.from_pretrained(folder, device="cpu", intensity_range=(8.0, 40000.0))
    assert np.abs(other.embed_images([tmp_path / "deep.png"])[0] - rows[0]).max() > 1e-4
    plain = GlobalModel.from_pretrained(write_files(tiny_global(), tmp_path / "global"), device="cpu")
    with pytest.raises(DataError, match="set the option intensity_range"):
        plain.embed_images([tmp_path / "deep.png"])
