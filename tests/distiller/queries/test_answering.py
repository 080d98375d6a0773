"""A query finds what matches best among the public set, from embeddings that are made once."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.distiller.queries.trying import Trying, ready
from tests.learning.tiny import tiny_public

from fedafd import GlobalModel
from fedafd.distiller.queries.answering import Answering
from fedafd.distiller.queries.indexes import Index, Indexes, Progress
from fedafd.distiller.queries.worker import QueryMetrics, answered
from fedafd.domain.errors import ArtifactCorruptError, DataError, TooManyRequestsError
from fedafd.messaging.query_messages import Query, QueryFile

CAPTION = "a large red circle"
ORDER = ("test", "val", "train")


@pytest.fixture(scope="module")
def trying(tmp_path_factory: pytest.TempPathFactory) -> Trying:
    torch.set_num_threads(1)
    return Trying(tmp_path_factory.mktemp("trying"))


@pytest.fixture
def answering(trying: Trying) -> Iterator[Answering]:
    made = trying.answering()
    yield made
    made.close()


def png(pixels: Any) -> bytes:
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def public() -> list[tuple[str, Any, tuple[str, ...]]]:
    """Split, picture and captions of each sample, in the order in which they are searched."""
    splits = tiny_public()
    return [
        (name, image, captions)
        for name in ORDER
        for image, captions in zip(splits[name].images, splits[name].captions, strict=True)
    ]


def test_a_caption_finds_the_best_matching_pictures(trying: Trying, answering: Answering) -> None:
    answer = ready(answering, trying.query(caption=CAPTION))
    model = GlobalModel.from_pretrained(trying.model, device="cpu")
    samples = public()
    likeness = model.embed_images([image for _, image, _ in samples]) @ model.embed_texts([CAPTION])[0]
    best = np.argsort(-likeness, kind="stable")[:4]
    assert [hit.likeness for hit in answer.hits] == pytest.approx(likeness[best], abs=1e-5)
    assert (answer.num_searched, answer.num_pictures) == (80, 80)
    for hit, place in zip(answer.hits, best, strict=True):
        split, _, captions = samples[place]
        assert (hit.split, hit.captions) == (split, captions[:5])
        assert hit.thumbnail is not None and hit.thumbnail.startswith(b"\xff\xd8")
        shown = np.asarray(Image.open(io.BytesIO(hit.thumbnail)), dtype=np.float32)
        differs = [np.abs(shown - each).mean() for _, each, _ in samples]
        assert np.argmin(differs) == place, "the picture itself, but for what JPEG loses"


def test_a_picture_finds_different_captions(trying: Trying, answering: Answering) -> None:
    picture = public()[3][1]
    answer = ready(answering, trying.query(picture=png(picture), top_k=24))
    model = GlobalModel.from_pretrained(trying.model, device="cpu")
    captions = list(dict.fromkeys(text for _, _, texts in public() for text in texts))
    likeness = model.embed_texts(captions) @ model.embed_images([picture])[0]
    best = np.argsort(-likeness, kind="stable")[:24]
    assert [hit.captions for hit in answer.hits] == [(captions[i],) for i in best]
    assert answer.num_searched == len(captions)
    firsts = {text: name for name, _, texts in reversed(public()) for text in texts}
    assert [hit.split for hit in answer.hits] == [firsts[hit.captions[0]] for hit in answer.hits]


def test_embeddings_are_made_once_and_outlive_the_process(trying: Trying, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trying.answering()
    expected = ready(first, trying.query(caption=CAPTION))
    first.close()

    def not_again(*_: Any) -> Any:
        pytest.fail("embedded again")

    monkeypatch.setattr(Indexes, "_begin", not_again)
    again = trying.answering()
    assert again.answer(trying.query(caption=CAPTION)) == expected
    again.close()


def test_a_damaged_file_of_embeddings_is_made_anew(trying: Trying) -> None:
    first = trying.answering()
    expected = ready(first, trying.query(caption=CAPTION))
    first.close()
    for path in (trying.cache / "embeddings").iterdir():
        path.write_bytes(path.read_bytes()[:-8])
    again = trying.answering()
    assert ready(again, trying.query(caption=CAPTION)) == expected
    again.close()


def test_only_so_many_pictures_are_searched_and_no_other_shard_is_fetched(trying: Trying, tmp_path: Path) -> None:
    trying.cache = tmp_path / "cache"
    answering = trying.answering(most_pictures=20)
    answer = ready(answering, trying.query(caption=CAPTION, top_k=24))
    answering.close()
    assert (answer.num_searched, answer.num_pictures) == (20, 80)
    assert {hit.split for hit in answer.hits} == {"test"}
    assert len(list((trying.cache / "shards").iterdir())) == 2, "24 test pictures, in shards of 16"


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n" + b"x" * 100])
def test_what_is_no_picture_is_refused_by_name(trying: Trying, answering: Answering, content: bytes) -> None:
    with pytest.raises(DataError, match="the picture"):
        answering.answer(trying.query(picture=content))


def test_a_bomb_is_refused_before_it_is_decoded(trying: Trying, answering: Answering) -> None:
    made = io.BytesIO()
    Image.new("1", (9000, 9000)).save(made, "PNG")
    assert len(made.getvalue()) < 100_000
    with pytest.raises(DataError, match="not decoded, because 9000 x 9000 pixels"):
        answering.answer(trying.query(picture=made.getvalue()))


def test_a_damaged_model_is_refused_and_nothing_is_left_of_it(trying: Trying, answering: Answering) -> None:
    wrong = tuple(file.model_copy(update={"sha256": "0" * 64}) for file in trying.files)
    with pytest.raises(ArtifactCorruptError):
        answering.answer(trying.query(caption=CAPTION, files=wrong))
    outside = (QueryFile(path="../x.json", key=trying.files[0].key, sha256=trying.files[0].sha256),)
    with pytest.raises(ArtifactCorruptError, match="no plain relative path"):
        answering.answer(trying.query(caption=CAPTION, files=outside))
    assert list((trying.cache / "versions").iterdir()) == []


@pytest.mark.parametrize("key", ["federations/trial/clients/north/models/1/config.json", "public-sets/a/manifest.json"])
def test_who_can_write_to_redis_asks_no_sites_own_model(trying: Trying, answering: Answering, key: str) -> None:
    asked = trying.query(caption=CAPTION).model_dump(mode="json")
    asked["files"][0]["key"] = key
    trying.store.put(key, (trying.model / asked["files"][0]["path"]).read_bytes())
    refused = answered(answering, json.dumps(asked).encode(), QueryMetrics())
    assert (refused.state, refused.code) == ("refused", "invalid-request")


def test_a_worker_answers_whatever_comes(trying: Trying, answering: Answering) -> None:
    metrics = QueryMetrics()
    asked = trying.query(picture=b"no picture").model_dump_json().encode()
    assert answered(answering, asked, metrics).code == "invalid-data"
    assert answered(answering, b"{}", metrics).code == "invalid-request"

    class Broken(Answering):
        def __init__(self) -> None: ...

        def answer(self, query: Query) -> Any:
            raise ZeroDivisionError(query.caption)

    broken = answered(Broken(), trying.query(caption="secret").model_dump_json().encode(), metrics)
    assert (broken.state, broken.code) == ("refused", "internal")
    assert "secret" not in broken.message
    assert b'fedafd_queries_answers_total{outcome="failed"} 1.0' in metrics.exposition()


def index(size: int) -> Index:
    return Index(np.arange(size), np.zeros((size, 2), dtype=np.float32))


def test_whoever_asks_meanwhile_hears_how_far_it_is(tmp_path: Path) -> None:
    indexes = Indexes(tmp_path, 10**6, wait_seconds=0.05)
    may_end: list[int] = []

    def make(advance: Any) -> Index:
        advance()
        while not may_end:
            time.sleep(0.01)
        return index(2)

    assert indexes.find("one", 2, make) == Progress(1, 2)
    for name in ("two", "three", "four"):
        assert indexes.find(name, 2, make) == Progress(0, 2)
    with pytest.raises(TooManyRequestsError, match="4 sets of embeddings are being made"):
        indexes.find("five", 2, make)
    may_end.append(1)
    while isinstance(found := indexes.find("four", 2, make), Progress):
        pass
    assert len(found.entries) == 2
    indexes.close()


def test_an_error_is_told_once_and_then_it_is_tried_again(tmp_path: Path) -> None:
    indexes = Indexes(tmp_path, 10**6)

    def fail(_: Any) -> Index:
        raise DataError("the public set is damaged")

    with pytest.raises(DataError, match="damaged"):
        indexes.find("one", 2, fail)
    assert isinstance(indexes.find("one", 2, lambda _: index(2)), Index)
    indexes.close()


def test_the_folder_keeps_the_newest_within_its_limit(tmp_path: Path) -> None:
    indexes = Indexes(tmp_path, 100_000)
    for number in range(5):
        indexes.find(f"n{number}", 2500, lambda _: index(2500))
        time.sleep(0.02)
    indexes.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n3.safetensors", "n4.safetensors"]


def test_the_end_of_the_process_stops_what_is_made(tmp_path: Path) -> None:
    indexes = Indexes(tmp_path, 10**6, wait_seconds=0.05)

    def make(advance: Any) -> Index:
        while True:
            advance()
            time.sleep(0.01)

    assert isinstance(indexes.find("one", 2, make), Progress)
    indexes.close()
