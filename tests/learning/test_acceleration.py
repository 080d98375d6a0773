"""Each faster way to train or encode against the plain one: same gradients, same pixels, same features."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.client_epoch import PlainSite
from tests.learning.tiny import IMAGE, NORMLESS_IMAGE, TEXT, tiny_federation, tiny_private, tiny_public
from torch import Tensor
from torch.nn import functional as F

from fedafd.datasets.pixels import KeptImages, keep_decoded
from fedafd.domain.config import EncoderConfig
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind, Modality
from fedafd.learning import feeding
from fedafd.learning.acceleration import accelerate, autocasts, encode_in
from fedafd.learning.checkpoint import Checkpoint
from fedafd.learning.client_data import SplitTensors
from fedafd.learning.client_round import train_client
from fedafd.learning.feature_cache import backbone_digest
from fedafd.learning.feeding import batches_worked, encode_batch
from fedafd.learning.images import augmented, image_pixels, scaled
from fedafd.learning.local_site import LocalSite, Sent
from fedafd.learning.local_training import train_locally
from fedafd.learning.sample_encoder import SampleEncoder, encode_all
from fedafd.learning.server_round import initial_server_state, prepare
from fedafd.learning.tokens import build_tokenizer

CPU = torch.device("cpu")


def encoder_of(encoder: dict[str, Any], modality: Modality) -> SampleEncoder:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a red circle", "two blue squares lie there"]) if modality is Modality.TEXT else None
    return SampleEncoder(EncoderConfig(**encoder), modality, dim=8, tokenizer=tokenizer).train()


def rows(of: SampleEncoder, count: int) -> Tensor:
    if of.modality is Modality.TEXT:
        return of.read((["a", "a red circle", "two blue squares lie there", ""] * count)[:count])
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def gradients(of: SampleEncoder, batch: Tensor) -> dict[str, Tensor]:
    made = of(batch)
    # Neither loss is a sum over parts of the batch.
    loss = torch.cdist(made.vector_BD, made.vector_BD.detach().roll(1, 0)).square().sum()
    loss = loss + (made.tokens_BPD * made.weights_BP.unsqueeze(-1)).sum((0, 1)).square().sum()
    of.zero_grad()
    torch.autograd.backward(loss)
    return {name: p.grad.clone() for name, p in of.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("encoder", "modality"), [(NORMLESS_IMAGE, Modality.IMAGE), (TEXT, Modality.TEXT)], ids=["image", "text"]
)
@pytest.mark.parametrize("parts", [2, 3, 100])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    encoder: dict[str, Any], modality: Modality, parts: int
) -> None:
    one = encoder_of(encoder, modality)
    batch = rows(one, 7)
    whole = gradients(one, batch)
    accelerate([one], device=CPU, autocast="off", accumulate=parts, compiled=False)
    in_parts = gradients(one, batch)
    assert whole.keys() == in_parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(in_parts[name], gradient, atol=1e-5, rtol=1e-4)


def test_recomputing_a_part_draws_the_same_dropout_and_counts_statistics_once() -> None:
    text = encoder_of(TEXT | {"options": TEXT["options"] | {"dropout": 0.5}}, Modality.TEXT)  # type: ignore[operator]
    accelerate([text], device=CPU, autocast="off", accumulate=2, compiled=False)
    made = text(rows(text, 6)).vector_BD
    # Were the masks drawn anew, the recomputed graph's values would differ from those the gradient is taken at.
    torch.autograd.backward(made.sum())
    image = encoder_of(IMAGE, Modality.IMAGE)
    accelerate([image], device=CPU, autocast="off", accumulate=2, compiled=False)
    torch.autograd.backward(image(rows(image, 6)).vector_BD.sum())
    counted = [buffer for name, buffer in image.named_buffers() if "num_batches" in name]
    assert counted
    assert {int(number) for number in counted} == {2}


def test_a_client_trains_the_same_in_parts() -> None:
    made = [_client(tiny_federation(image_encoder=NORMLESS_IMAGE, client={"accumulate": n})) for n in (1, 2)]
    for name, tensor in made[0].items():
        torch.testing.assert_close(made[1][name], tensor, atol=1e-3, rtol=1e-3, msg=partial("{}: {}".format, name))


def test_autocast_is_for_training_alone() -> None:
    assert autocasts("auto", torch.device("cuda"))
    assert not autocasts("auto", CPU)
    image = encoder_of(IMAGE, Modality.IMAGE)
    batch = rows(image, 4)
    exact = image(batch).vector_BD
    accelerate([image], device=CPU, autocast="bfloat16", accumulate=1, compiled=False)
    near = image(batch)
    assert near.vector_BD.dtype == near.tokens_BPD.dtype == torch.float32
    assert not torch.equal(near.vector_BD, exact)
    torch.testing.assert_close(near.vector_BD, exact, atol=0.05, rtol=0)
    image.eval()
    once = encode_all(image, batch, CPU)
    accelerate([image], device=CPU, autocast="off", accumulate=1, compiled=False)
    assert np.array_equal(once, encode_all(image, batch, CPU))


BERT = {
    "architecture": "bert",
    "max_tokens": 8,
    "options": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
}


@pytest.mark.parametrize(
    ("encoder", "modality"),
    [(IMAGE, Modality.IMAGE), (NORMLESS_IMAGE, Modality.IMAGE), (TEXT, Modality.TEXT), (BERT, Modality.TEXT)],
    ids=["resnet", "convnext", "gru", "bert"],
)
def test_encoding_in_bfloat16_is_near_float32(encoder: dict[str, Any], modality: Modality) -> None:
    one = encoder_of(encoder, modality)
    batch = rows(one, 12)
    exact = encode_all(one, batch, CPU)
    encode_in([one], "bfloat16", CPU)
    near = encode_all(one, batch, CPU)
    assert near.dtype == np.float32
    assert not np.array_equal(near, exact)
    assert float((near * exact).sum(1).min()) > 0.999
    encode_in([one], "off", CPU)
    assert np.array_equal(encode_all(one, batch, CPU), exact)


def test_features_of_a_frozen_backbone_have_another_name_in_bfloat16() -> None:
    one = encoder_of(IMAGE | {"trainable": "head"}, Modality.IMAGE)
    exact, name = one.rows(list(np.zeros((2, 32, 32, 3), np.uint8))), backbone_digest(one)
    encode_in([one], "bfloat16", CPU)
    assert backbone_digest(one) != name
    near = one.rows(list(np.zeros((2, 32, 32, 3), np.uint8)))
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, atol=0.02, rtol=0.02)


def test_the_server_and_a_client_encode_as_configured() -> None:
    public = tiny_public()["train"]
    found = []
    for mode in ("off", "bfloat16"):
        config = tiny_federation(server={"encode_autocast": mode}, client={"encode_autocast": mode})
        made = _prepared(config, public)
        private, sent = tiny_private(ClientKind.IMAGE), sent_of(made, public)
        site = LocalSite(config, ClientKind.IMAGE, {}, private, None, 5, "cpu", sent=sent)
        held = site.frozen_features("train", {Modality.IMAGE: torch.arange(40)})[Modality.IMAGE].numpy()
        found.append((made.state, made.representations[Modality.IMAGE], held, site.represent()[Modality.IMAGE]))
    assert found[0][0] == found[1][0]  # it trains the same
    for exact, near in zip(found[0][1:], found[1][1:], strict=True):
        assert not np.array_equal(near, exact)
        np.testing.assert_allclose(near, exact, atol=0.05)


def test_batches_shrink_to_what_the_memory_of_a_device_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    device, tried = torch.device("cuda"), []
    monkeypatch.setattr(feeding, "_borne", {})
    monkeypatch.setattr(feeding, "batches", lambda rows, size, _: iter(rows.split(size)))

    def work(batch: Tensor) -> Tensor:
        tried.append(len(batch))
        if len(batch) > 300:
            raise torch.OutOfMemoryError
        return batch * 2

    many = torch.arange(1100)
    assert torch.equal(batches_worked(work, many, device), many * 2)
    assert tried == [encode_batch(device), 512, 256, 256, 256, 256, 76]
    tried.clear()
    batches_worked(work, many, device)
    assert tried[0] == 256
    monkeypatch.setattr(feeding, "_borne", {"cuda": 32})
    with pytest.raises(torch.OutOfMemoryError):
        batches_worked(lambda batch: work(batch.repeat(10)), many, device)


def test_a_round_runs_in_bfloat16() -> None:
    config = tiny_federation(server={"autocast": "bfloat16"}, client={"autocast": "bfloat16"})
    assert all(bool(tensor.isfinite().all()) for tensor in _client(config).values())


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="needs a C\\+\\+ compiler"):
        accelerate([encoder_of(IMAGE, Modality.IMAGE)], device=CPU, autocast="off", accumulate=1, compiled=True)


def test_compiled_is_the_same_and_keeps_the_names_of_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    image = encoder_of(IMAGE, Modality.IMAGE).eval()
    batch, names = rows(image, 4), list(image.state_dict())
    plain = image(batch).vector_BD
    chosen: list[dict[str, Any]] = []
    compile_in_place = type(image.network).compile

    # The back end without code generation: what is tested is our use, in seconds.
    def compiled(self: torch.nn.Module) -> None:
        chosen.append({})
        compile_in_place(self, backend="aot_eager")

    monkeypatch.setattr(type(image.network), "compile", compiled)
    accelerate([image], device=CPU, autocast="off", accumulate=1, compiled=True)
    assert chosen
    assert list(image.state_dict()) == names
    torch.testing.assert_close(image(batch).vector_BD, plain)


def test_augmentation_is_a_shifted_window_of_the_padded_image_mirrored_at_random() -> None:
    pixels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    found = augmented(pixels, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    y, x = (int(v) for v in torch.randint(0, 5, (2,), generator=generator))
    mirror = torch.rand(6, generator=generator) < 0.5
    padded = F.pad(pixels.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    for image, want, flipped in zip(found, padded[..., y : y + 16, x : x + 16], mirror, strict=True):
        assert torch.equal(image, want.flip(-1) if flipped else want)


def test_scaling_writes_channels_last_in_one_pass() -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    made = scaled(pixels)
    assert made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made, (pixels / 255 - 0.5) / 0.25)


def test_kept_images_are_decoded_once() -> None:
    data = keep_decoded(tiny_private(ClientKind.IMAGE))
    images = data.train.images  # type: ignore[union-attr]
    assert isinstance(images, KeptImages)
    plain = image_pixels(list(tiny_private(ClientKind.IMAGE).train.images), 16)  # type: ignore[union-attr]
    assert torch.equal(image_pixels(images, 16), plain)
    assert image_pixels(images, 16).data_ptr() == image_pixels(images, 16).data_ptr()
    assert keep_decoded(tiny_private(ClientKind.TEXT)).train.texts  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [32, 16])
def test_global_features_are_the_frozen_encoders_whatever_size_the_client_reads(size: int) -> None:
    split = tiny_private(ClientKind.PAIR).train
    frozen = {
        Modality.IMAGE: encoder_of(IMAGE, Modality.IMAGE).eval(),
        Modality.TEXT: encoder_of(TEXT, Modality.TEXT).eval(),
    }
    local = {
        Modality.IMAGE: encoder_of(IMAGE | {"image_size": size}, Modality.IMAGE),
        Modality.TEXT: encoder_of(TEXT, Modality.TEXT),
    }
    found = SplitTensors(split, local).global_features(split, frozen, CPU)
    for modality, rows_ND in SplitTensors(split, frozen).rows.items():
        np.testing.assert_array_equal(found[modality].numpy(), encode_all(frozen[modality], rows_ND, CPU))


@pytest.mark.parametrize("kind", ClientKind)
def test_features_and_pixels_kept_for_the_round_change_nothing(kind: ClientKind) -> None:
    config, public = tiny_federation(), tiny_public()["train"]
    made = _prepared(config, public)
    states = []
    for site_class in (LocalSite, PlainSite):
        site = site_class(config, kind, {}, tiny_private(kind), None, 5, "cpu", sent=sent_of(made, public))
        train_locally(site, 1)
        states.append(Checkpoint.from_bytes(site.state()).tensors)
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, atol=1e-3, rtol=1e-3, msg=partial("{}: {}".format, name))


def sent_of(made: Any, public: Any) -> Sent:
    return Sent(representations=made.representations, bundles=made.bundles, public=public)


def _prepared(config: Any, public: Any) -> Any:
    state = initial_server_state(config=config, captions=public.captions, seed=3)
    return prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu")


def _client(config: Any) -> dict[str, Tensor]:
    public = tiny_public()["train"]
    made = _prepared(config, public)
    result = train_client(
        config=config.model_copy(update={"client": _sgd(config.client)}),
        kind=ClientKind.PAIR,
        image_encoder=None,
        text_encoder=None,
        data=tiny_private(ClientKind.PAIR),
        public=public,
        global_representations=made.representations,
        bundles=made.bundles,
        state=None,
        round_number=1,
        seed=5,
        device="cpu",
    )
    tensors = Checkpoint.from_bytes(result.state).tensors
    return {name: t for name, t in tensors.items() if name.startswith("model/encoders")}


def _sgd(client: Any) -> Any:
    pair = client.pair.model_copy(update={"optimizer": "sgd", "learning_rate": 0.01})
    return client.model_copy(update={"pair": pair})
