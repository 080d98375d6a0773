"""Packed folders, errors and credentials survive the wire, and only what was meant passes."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedafd.domain.errors import ERROR_STATUS, FedafdError, IllegalTransitionError, UnauthenticatedError, UploadError
from fedafd.domain.process_errors import UnexpectedAnswerError, UnreachableError
from fedafd.rpc.bundles import pack_folder, unpack_folder
from fedafd.rpc.credentials import bearer_metadata, bearer_secret
from fedafd.rpc.status import ERROR_CODE_KEY, error_from_rpc, status_of

paths = st.from_regex(r"\A[a-z0-9_.]{1,12}(/[a-z0-9_]{1,12}){0,3}\Z").filter(
    lambda path: not set(path.split("/")) & {".", ".."}
)


@settings(max_examples=50)
@given(files=st.dictionaries(paths, st.binary(max_size=2000), max_size=5))
def test_a_folder_comes_back_and_equal_folders_have_equal_bytes(files: dict[str, bytes]) -> None:
    blob = pack_folder(files)
    assert unpack_folder(blob) == files
    assert pack_folder(dict(reversed(files.items()))) == blob


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "a\\b", "./a", "a//b", "a/"])
def test_a_path_that_is_not_plain_is_neither_packed_nor_unpacked(path: str) -> None:
    with pytest.raises(UploadError, match="is not a plain relative path"):
        pack_folder({path: b""})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo()
        info.name = path
        tar.addfile(info)
    stored = tarfile.TarFile(fileobj=io.BytesIO(buffer.getvalue())).getnames()
    if stored == [path]:  # tarfile itself strips a slash at the end
        with pytest.raises(UploadError):
            unpack_folder(buffer.getvalue())


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_bundle_is_unpacked_or_refused_and_nothing_else(data: st.DataObject) -> None:
    blob = bytearray(pack_folder({"config.json": b"{}", "model.safetensors": b"x" * 700}))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    try:
        assert all(isinstance(content, bytes) for content in unpack_folder(bytes(blob)).values())
    except UploadError:
        pass


class Failed(grpc.RpcError):
    """A failed call as a client sees it."""

    def __init__(self, code: grpc.StatusCode, details: str | None, trailing: Any = ()) -> None:
        self._answers = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._answers[0]

    def details(self) -> str | None:
        return self._answers[1]

    def trailing_metadata(self) -> Any:
        return self._answers[2]


@pytest.mark.parametrize("kind", [kind for kind in ERROR_STATUS if kind is not FedafdError])
def test_every_domain_error_comes_back_as_itself(kind: type[FedafdError]) -> None:
    error = kind(old="a", new="b") if kind is IllegalTransitionError else kind("what, where, what to do")
    code, text, trailing = status_of(error)
    assert code.name == ERROR_STATUS[kind].grpc
    back = error_from_rpc(Failed(code, text, trailing))
    assert type(back) is kind
    assert (str(back), back.retryable) == (str(error), error.retryable)


def test_a_subclass_travels_as_the_error_it_is_a_kind_of() -> None:
    class SpecialError(UploadError):
        """A plugin's own."""

    code, _, trailing = status_of(SpecialError("x"))
    assert (code, dict(trailing)[ERROR_CODE_KEY]) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid-upload")


def test_an_error_of_any_length_fits_into_a_header() -> None:
    assert len(status_of(UploadError("x" * 10**6))[1]) == 2000


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_an_answer_that_did_not_come_may_be_tried_again(code: grpc.StatusCode) -> None:
    error = error_from_rpc(Failed(code, "connection refused"))
    assert isinstance(error, UnreachableError)
    assert error.retryable


def test_an_unknown_answer_that_speaks_of_the_request_is_not_tried_again() -> None:
    for failed in (
        Failed(grpc.StatusCode.OUT_OF_RANGE, "boom"),
        Failed(grpc.StatusCode.FAILED_PRECONDITION, None, ((ERROR_CODE_KEY, "from-the-future"),)),
    ):
        error = error_from_rpc(failed)
        assert isinstance(error, UnexpectedAnswerError)
        assert not error.retryable


def test_a_secret_comes_back_from_its_metadata() -> None:
    assert bearer_secret(bearer_metadata("s3cret")) == "s3cret"
    assert bearer_secret([("user-agent", "x"), *bearer_metadata("s")]) == "s"


@pytest.mark.parametrize(
    "metadata",
    [None, (), (("authorization", "s"),), (("authorization", b"Bearer s"),), (("Authorization", "Bearer s"),)],
)
def test_metadata_without_a_secret_is_unauthenticated(metadata: Any) -> None:
    with pytest.raises(UnauthenticatedError, match="no credential"):
        bearer_secret(metadata)
