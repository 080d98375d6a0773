"""Blocks by digest: what differs is found, whatever the pieces, and nothing that a stranger tells goes unchecked."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.patch import patch_of
from fedafd.artifacts import blocks
from fedafd.artifacts.blocks import (
    DIGEST_BYTES,
    Span,
    block_digests,
    block_length,
    changed_spans,
    checked_length,
    checked_spans,
)
from fedafd.domain.errors import ArtifactCorruptError, InvalidRequestError
from fedafd.domain.hashing import sha256_of

KIB = 1024


@settings(max_examples=60, deadline=None)
@given(
    old=st.integers(0, 40),
    new=st.integers(1, 40),
    edits=st.lists(st.tuples(st.integers(0, 39), st.integers(1, 9)), max_size=6),
    came=st.integers(0, 39),
    piece=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_a_patched_download_is_the_new_blob(
    old: int,
    new: int,
    edits: list[tuple[int, int]],
    came: int,
    piece: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever was changed, cut off or added, and whatever had come before it broke off."""
    folder, length = tmp_path_factory.mktemp("patched"), 4
    before = random.Random(seed).randbytes(old)
    wanted = bytearray((before + random.Random(seed + 1).randbytes(new))[:new])
    for place, value in edits:
        if place < len(wanted):
            wanted[place] = (wanted[place] + value) % 256
    blob, base = bytes(wanted), folder / "base"
    base.write_bytes(before)
    cache = ArtifactCache(folder / "cache", limit_bytes=1 << 20)
    part = cache.begin(sha256_of(blob), len(blob))
    part.append(blob[: min(came, len(blob))])
    patch = patch_of(base, block_digests([blob], length), size_bytes=len(blob), length=length)
    assert patch.taken_bytes([Span(0, len(blob))]) == len(blob) - patch.changed_bytes
    patch.copy(part)
    sent = b"".join(blob[span.start : span.end] for span in patch.missing(part))
    for start in range(0, len(sent), piece):
        patch.append(part, sent[start : start + piece])
    assert part.finish().read_bytes() == blob


def test_digests_are_of_blocks_and_not_of_pieces() -> None:
    blob = random.Random(1).randbytes(100 * KIB + 7)
    whole = block_digests([blob], 16 * KIB)
    assert len(whole) == 7 * DIGEST_BYTES
    for size in (1000, 16 * KIB, 40_000):
        assert block_digests([blob[i : i + size] for i in range(0, len(blob), size)], 16 * KIB) == whole
    assert block_digests([], 16 * KIB) == b""


def test_blocks_are_short_and_their_digests_too() -> None:
    for size in (0, 1, 5 * KIB, 618_000_000, 50 << 30):
        length = block_length(size)
        assert checked_length(length) == length
        assert -(-size // length) * DIGEST_BYTES <= 1 << 20
    assert block_length(618_000_000) == 16 * KIB


def test_what_a_stranger_tells_is_checked() -> None:
    for length in (0, -1, 1, 16 * KIB + 1, 8 * KIB, 1 << 50):
        with pytest.raises(InvalidRequestError):
            checked_length(length)
    with pytest.raises(InvalidRequestError, match="digests"):
        changed_spans(b"x" * 7, b"", size_bytes=10, length=16 * KIB)
    assert checked_spans([(0, 2), (2, 3), (9, 1)], 10) == [Span(0, 2), Span(2, 5), Span(9, 10)]
    for bad in ([(3, 2), (0, 2)], [(0, 3), (2, 3)], [(-1, 2)], [(0, 0)], [(8, 3)], [(0, 1)] * 5000):
        with pytest.raises(InvalidRequestError):
            checked_spans(bad, 10)


def test_more_spans_than_may_be_asked_for_are_joined_over_the_smallest_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedafd.agent.patch.MOST_RANGES", 2)
    (tmp_path / "base").write_bytes(bytes(40))
    blob = bytearray(40)
    for place in (0, 8, 32):
        blob[place] = 1
    patch = patch_of(tmp_path / "base", block_digests([bytes(blob)], 4), size_bytes=40, length=4)
    part = ArtifactCache(tmp_path / "cache", limit_bytes=100).begin(sha256_of(bytes(blob)), 40)
    assert patch.missing(part) == [Span(0, 12), Span(32, 36)]
    assert blocks.MOST_RANGES > 2


@settings(deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=12), st.lists(st.integers(0, 47), unique=True, max_size=8).map(sorted)
)
def test_how_much_of_some_parts_is_taken_is_what_counting_bytes_says(same: list[bool], edges: list[int]) -> None:
    blob = b"".join(bytes(4) if each else b"\1\1\1\1" for each in same)
    with TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.write_bytes(bytes(len(blob)))
        patch = patch_of(base, block_digests([blob], 4), size_bytes=len(blob), length=4)
    parts = [Span(start, end) for start, end in zip(edges[::2], edges[1::2], strict=False) if end <= len(blob)]
    assert patch.taken_bytes(parts) == sum(blob[part.start : part.end].count(0) for part in parts)


def test_a_base_that_was_cut_meanwhile_is_an_error_and_nothing_stays(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(40))
    blob = bytes(39) + b"x"
    patch = patch_of(base, block_digests([blob], 4), size_bytes=40, length=4)
    base.write_bytes(bytes(10))
    part = ArtifactCache(tmp_path / "cache", limit_bytes=100).begin(sha256_of(blob), 40)
    with pytest.raises(ArtifactCorruptError, match="shorter than its blocks say"):
        patch.copy(part)
    assert part.offset_bytes == 0
