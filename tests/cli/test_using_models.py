"""The examples of docs/using-models.md, executed as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.documents import blocks
from tests.learning.tiny import personalized_folder, tiny_global, tiny_public, write_files
from tests.servers import ROOT
from typer.testing import CliRunner

from fedafd.cli.main import app
from fedafd.domain.kinds import ClientKind

PAGE = "docs/using-models.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page speaks of: models, a photo, a folder of photos, a CSV, a file of captions."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("page")
    personalized_folder(ClientKind.IMAGE, root / "model")
    personalized_folder(ClientKind.TEXT, root / "reports-model")
    write_files(tiny_global(), root / "global")
    (root / "photos").mkdir()
    for number, image in enumerate(tiny_public()["train"].images[:3]):
        Image.fromarray(image).save(root / "photos" / f"{number}.png")
    Image.fromarray(tiny_public()["train"].images[4]).save(root / "photo.jpg")
    (root / "list.csv").write_text("id,file\n1,photo.jpg\n2,photos/0.png\n")
    (root / "captions.txt").write_text("two dogs in the snow\na red circle\n")
    return root


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


@pytest.mark.parametrize("code", blocks(PAGE, "python"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_the_python_of_the_page_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, PAGE, "exec"), {})
    assert capsys.readouterr().out


ASK_SERVICES = ("fedafd agent export", "fedafd model search")
COMMANDS = [line for block in blocks(PAGE, "sh") for line in block.splitlines() if not line.startswith(ASK_SERVICES)]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_page_run(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "fedafd"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout or Path("labelled.csv").is_file()


def test_the_readme_leads_to_the_page() -> None:
    assert f"]({PAGE})" in (ROOT / "README.md").read_text(encoding="utf-8")
