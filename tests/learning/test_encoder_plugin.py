"""An encoder from a distribution of its own, really installed into a folder on the path."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

NAME = "tiny_fedafd_encoders"
SOURCE = '''
import torch
from torch import nn
from fedafd.learning.encoders import Encoder

class Patches(nn.Module):
    """Patches of 8 pixels a side, each a linear map of its mean colour."""
    def __init__(self, channels):
        super().__init__()
        self.map = nn.Linear(3, channels)

    def forward(self, pixels):
        means_BPC = nn.functional.avg_pool2d(pixels, 8).flatten(2).transpose(1, 2)
        weights_BP = means_BPC.new_full(means_BPC.shape[:2], 1 / means_BPC.shape[1])
        return self.map(means_BPC), weights_BP

def patches(config, *, dim, vocabulary):
    channels = config.options.get("channels", 8)
    return Encoder(Patches(channels), channels, dim)
'''
ROUND = """
import numpy as np
from pathlib import Path
from PIL import Image
from tests.learning.tiny import tiny_federation, tiny_public
from fedafd import GlobalModel
from fedafd.learning.encoders import encoder_names
from fedafd.learning.server_round import export_global_model, initial_server_state, prepare

assert "patches" in encoder_names()
encoder = {"architecture": "patches", "image_size": 32, "options": {"channels": 6}}
config, public = tiny_federation(image_encoder=encoder), tiny_public()["train"]
state = initial_server_state(config=config, captions=public.captions, seed=3)
made = prepare(config=config, state=state, public=public, round_number=1, seed=4, device="cpu")
assert made.state != state
folder = Path(FOLDER)
for path, content in export_global_model(config=config, state=made.state, metrics={}, lineage={}).items():
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)
images = [Image.fromarray(image) for image in public.images]
embedded = GlobalModel.from_pretrained(folder).embed_images(images)
np.testing.assert_allclose(embedded, made.representations["image"], atol=1e-5)
print("embedded", embedded.shape)
"""
LOAD = """
from fedafd.domain.errors import FedafdError
from fedafd import GlobalModel
try:
    GlobalModel.from_pretrained(FOLDER)
except FedafdError as error:
    print(error)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A wheel built by hand, installed by pip."""
    wheel = tmp_path / f"{NAME}-1.0-py3-none-any.whl"
    info = f"{NAME}-1.0.dist-info"
    files = {
        f"{NAME}.py": SOURCE,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[fedafd.encoders]\npatches = {NAME}:patches\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(name, content)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    return target


def _python(code: str, folder: Path, *path: Path) -> str:
    root = Path(__file__).resolve().parents[2]
    lines = "import sys\n" + "".join(f"sys.path.insert(0, {str(entry)!r})\n" for entry in (root, *path))
    code = f"{lines}FOLDER = {str(folder)!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_encoder_trains_and_loads_from_the_model_folder(installed: Path, tmp_path: Path) -> None:
    assert "embedded (48, 16)" in _python(ROUND, tmp_path / "model", installed)
    # Without the distribution the folder says what it lacks.
    said = _python(LOAD, tmp_path / "model")
    assert "encoder 'patches' is not known; installed: auto, bert, bigru" in said
