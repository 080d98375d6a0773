"""Folders of pretrained weights that are not what they should be: an error names the folder, the fault and the way out.

None of them may end in a library's own error, and none may train on what the folder does not hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.learning.test_pretrained import SIZES, save_tokenizer, saved_image, saved_text

from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import Modality
from fedafd.learning.image_processor import pixel_scale
from fedafd.learning.pretrained import check_folder
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.weights_check import WantedEncoder, check_encoders

WEIGHTS = "model.safetensors"


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def pointer_of_git_lfs(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 437955512\n")


def of_another_size(folder: Path) -> None:
    changed(folder, hidden_size=32)


def quantised(folder: Path) -> None:
    changed(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def wrong_type(folder: Path) -> None:
    changed(folder, hidden_size="wide")


def no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def not_finite(folder: Path) -> None:
    model = transformers.BertModel.from_pretrained(folder)
    with torch.no_grad():
        model.get_parameter("embeddings.word_embeddings.weight")[4] = float("nan")
    model.save_pretrained(folder)


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


def without_padding(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)


def without_fast_form(folder: Path) -> None:
    without_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))


def adapter_alone(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))


def changed(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (cut_off, "was not fetched whole"),
    (pointer_of_git_lfs, "git lfs pull"),
    (of_another_size, r"20 tensors, such as embeddings.LayerNorm.bias, which is \[16\] and should be \[32\]"),
    (quantised, r"are quantised \(gptq\)"),
    (wrong_type, "config.json, or a file beside it, holds what its model does not take.*hidden_size"),
    (no_object, "config.json, or a file beside it, holds what its model does not take"),
    (not_finite, "1 tensors, such as embeddings.word_embeddings.weight"),
    (without_tokenizer, "knows no word, as if its files were missing; put the model's tokenizer.json"),
    (without_padding, "name one as `pad_token` in its tokenizer_config.json"),
    (without_fast_form, "a ByT5Tokenizer has no fast form"),
    (adapter_alone, "is an adapter of peft without its base"),
]


@pytest.mark.parametrize("architecture", ["auto", "bert"])
@pytest.mark.parametrize(("damage", "said"), FAULTS, ids=[damage.__name__ for damage, _ in FAULTS])
def test_a_faulty_text_folder_is_refused_by_its_fault(
    architecture: str, damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = saved_text("bert", tmp_path)
    check(folder, architecture)
    damage(folder)
    with pytest.raises(ConfigurationError, match=f"{folder}.*{said}"):
        check(folder, architecture)


def test_a_file_in_the_place_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = saved_text("bert", tmp_path)
    with pytest.raises(ConfigurationError, match="is a file; name the folder that holds it"):
        check(folder / WEIGHTS, "auto")


@contextmanager
def without_rights() -> Iterator[None]:
    """Whoever runs the tests, within it is nobody who may read what has no mode."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", [".", "config.json", WEIGHTS])
def test_what_this_process_may_not_read_is_named_and_is_not_said_to_be_missing(name: str) -> None:
    with TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "bert"
        saved_text("bert", folder)
        for file in (folder, *folder.iterdir()):
            file.chmod(0o755)
        with without_rights():
            check_folder(EncoderConfig(architecture="bert", pretrained=str(folder)), Modality.TEXT)
        (folder / name).chmod(0)
        try:
            with without_rights(), pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
                check_folder(EncoderConfig(architecture="bert", pretrained=str(folder)), Modality.TEXT)
        finally:
            (folder / name).chmod(0o755)


@pytest.mark.parametrize("kind", ["albert", "deberta-v2", "mpnet", "roberta", "xlm-roberta"])
def test_no_family_reads_all_words_as_unknown_where_its_tokenizer_is_missing(kind: str, tmp_path: Path) -> None:
    sizes: Any = transformers.AutoConfig.for_model(kind, **SIZES["bert"], vocab_size=20, pad_token_id=0)
    transformers.AutoModel.from_config(sizes).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json"):
        check(tmp_path, "auto")
    save_tokenizer(tmp_path)
    check(tmp_path, "auto")


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"image_mean": "grey"},
        {"image_mean": [0.5], "image_std": [0.5]},
        {"image_mean": [0.5, 0.5]},
        {"image_std": [0, 0, 0]},
        {"rescale_factor": 0},
    ],
    ids=str,
)
def test_a_pixel_scale_that_cannot_be_used_is_refused_by_its_file(content: Any, tmp_path: Path) -> None:
    folder = saved_image("vit", tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    config = EncoderConfig(architecture="vit", pretrained=str(folder), image_size=32)
    with pytest.raises(ConfigurationError, match="preprocessor_config.json|set `image_mean` and `image_std`"):
        pixel_scale(config)


def test_one_number_is_the_scale_of_all_channels(tmp_path: Path) -> None:
    folder = saved_image("vit", tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": 0.4, "image_std": 0.2}))
    config = EncoderConfig(architecture="vit", pretrained=str(folder), image_size=32)
    np.testing.assert_allclose(pixel_scale(config), [[0.4] * 3, [0.2] * 3])


def test_lora_goes_with_a_family_that_reads_the_shape_of_its_convolutions() -> None:
    pytest.importorskip("peft")
    config = EncoderConfig(
        architecture="auto",
        image_size=32,
        trainable="lora",
        options={"model_type": "mobilenet_v2", "image_size": 32, "depth_multiplier": 0.1},
    )
    encoder = SampleEncoder(config, Modality.IMAGE, dim=8)
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    encoder(encoder.read([picture, picture])).vector_BD.sum().backward()
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None for parameter in trained)


def check(folder: Path, architecture: str) -> None:
    config = EncoderConfig(architecture=architecture, pretrained=str(folder), max_tokens=8)
    check_encoders([WantedEncoder("text_encoder", config, Modality.TEXT, 8)])
