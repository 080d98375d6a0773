"""One hasher: what is named by its content is named alike everywhere."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

from tests.servers import ROOT

from fedafd.domain.hashing import file_sha256, pieces_sha256, sha256_of


def test_a_file_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    content = b"image" * 300_000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == sha256_of(content) == hashlib.sha256(content).hexdigest()


def test_pieces_have_the_hash_of_the_whole() -> None:
    assert pieces_sha256([b"im", b"", b"age"]) == sha256_of(b"image")
    assert pieces_sha256([]) == sha256_of(b"")


def test_no_other_module_hashes_bytes_at_hand() -> None:
    package = ROOT / "services" / "fedafd"
    hashing = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        if re.match(r"(hashlib\.)?sha256\(.+\)\.hexdigest\(\)$", ast.unparse(node), re.DOTALL)
    }
    assert hashing == {"domain/hashing.py"}


def test_no_other_module_hashes_files() -> None:
    package = ROOT / "services" / "fedafd"
    hashing = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if "file_digest(" in path.read_text()
    }
    assert hashing == {"domain/hashing.py"}
