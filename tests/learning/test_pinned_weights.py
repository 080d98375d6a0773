"""Weights of a hub at the revision that is pinned: each file comes from it, and no other repository is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tests.learning.fake_hub import FakeHub, hub_of
from tests.learning.test_pretrained import SIZES, save_tokenizer

from fedafd.domain.hub_names import hub_name

OLD, NEW = "a" * 40, "b" * 40
ID = "organisation/model"
_LOAD = """
import json, sys
import torch
torch.set_num_threads(1)
from fedafd.domain.config import EncoderConfig
from fedafd.domain.hub_names import hub_name
from fedafd.domain.errors import FedafdError
from fedafd.domain.kinds import Modality
from fedafd.learning.sample_encoder import SampleEncoder
from fedafd.learning.tokens import tokenizer_for
def load(config, modality):
    try:
        tokenizer = tokenizer_for(config, ()) if modality is Modality.TEXT else None
        encoder = SampleEncoder(config, modality, dim=8, tokenizer=tokenizer)
    except FedafdError as error:
        return str(error)
    weights = [t for t in encoder.encoder.backbone.state_dict().values() if t.is_floating_point()]
    return [float(weights[0].flatten()[0]), encoder.config.image_mean, encoder.config.prefix]
wanted = json.loads(sys.argv[1])
print(json.dumps([load(EncoderConfig.model_validate(config), Modality(modality)) for config, modality in wanted]))
"""


def saved(folder: Path, modality: str, fill: float) -> Path:
    """A tiny model all of whose weights are `fill`, with what says how its input is read."""
    name, kind = ("ResNetModel", "resnet") if modality == "image" else ("BertModel", "bert")
    model_class: Any = getattr(transformers, name)
    more = {} if modality == "image" else {"vocab_size": 20, "pad_token_id": 8}
    model = model_class(model_class.config_class(**SIZES[kind] | more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(fill)
    model.save_pretrained(folder)
    if modality == "image":
        scale = {"image_mean": [fill] * 3, "image_std": [0.5] * 3, "do_normalize": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(scale))
    else:
        save_tokenizer(folder)
        prompt = {"prompts": {"p": f"{fill} "}, "default_prompt_name": "p"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompt))
    return folder


def loaded(hub: FakeHub, cache: Path, *wanted: tuple[str, str, str]) -> list[Any]:
    """What a fresh process makes of each name, modality and architecture, which knows no other hub; its error where it
    refuses."""
    sizes = {"image_size": 32, "max_tokens": 8}
    configs = [({"pretrained": name, "architecture": what} | sizes, modality) for name, modality, what in wanted]
    command = [sys.executable, "-c", _LOAD, json.dumps(configs)]
    environment = os.environ | hub.environment(cache)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    told: list[Any] = json.loads(done.stdout)
    return told


def test_every_file_comes_from_the_revision_that_is_pinned(tmp_path: Path) -> None:
    repositories, wanted = {}, []
    for modality, own in (("image", "resnet"), ("text", "bert")):
        old, new = (saved(tmp_path / f"{modality}-{fill}", modality, fill) for fill in (0.25, 0.75))
        repositories[f"{ID}-{modality}"] = {OLD: old, NEW: new, "main": new}
        wanted += [(f"{ID}-{modality}@{OLD}", modality, architecture) for architecture in (own, "auto")]
    with hub_of(repositories) as hub:
        told = loaded(hub, tmp_path / "cache", *wanted)
        assert [(first, mean) for first, mean, _ in told[:2]] == [(0.25, [0.25] * 3)] * 2
        assert [(first, prefix) for first, _, prefix in told[2:]] == [(0.25, "0.25 ")] * 2
        assert all(any(name.partition("@")[0] in path for path in hub.asked) for name, *_ in wanted)
        assert all(OLD in path for path in hub.asked), hub.asked


def test_without_a_revision_the_newest_is_taken_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    old, new = saved(tmp_path / "old", "image", 0.25), saved(tmp_path / "new", "image", 0.75)
    named = f"{ID}@{'c' * 40}"
    with hub_of({ID: {OLD: old, NEW: new, "main": new}}) as hub:
        taken, refused = loaded(hub, tmp_path / "cache", (ID, "image", "resnet"), (named, "image", "resnet"))
    assert taken[0] == 0.75
    assert isinstance(refused, str) and named in refused


def test_an_adapter_on_a_hub_fetches_no_base_that_it_names(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra `lora` is not installed")
    base = saved(tmp_path / "base", "text", 0.75)
    adapter = save_adapter(tmp_path / "adapter", base="other/base")
    with hub_of({ID: {OLD: adapter, "main": adapter}, "other/base": {NEW: base, "main": base}}) as hub:
        wanted = [(f"{ID}@{OLD}", "text", architecture) for architecture in ("bert", "auto")]
        for refused in loaded(hub, tmp_path / "cache", *wanted):
            assert "is an adapter of peft without its base" in str(refused)
    assert not any("other/base" in path for path in hub.asked), hub.asked


def save_adapter(folder: Path, base: str) -> Path:
    folder.mkdir()
    described = {"base_model_name_or_path": base, "peft_type": "LORA", "r": 1, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("organisation/name", ("organisation/name", None)),
        ("bert-base-uncased@v1.0", ("bert-base-uncased", "v1.0")),
        (f"timm/a.in1k@{OLD}", ("timm/a.in1k", OLD)),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        ("/models/a", None),
        ("./a", None),
        ("../a/b", None),
        ("~/a", None),
        ("a/../b", None),
        ("a/b/c", None),
        ("a/b@", None),
        ("a/b@../c", None),
        ("a/b@c@d", None),
        ("https://example.org/a", None),
        ("a\n", None),
        ("", None),
        ("a" * 400, None),
    ],
)
def test_a_name_on_a_hub_is_told_from_a_path(text: str, wanted: tuple[str, str | None] | None) -> None:
    assert hub_name(text) == wanted
