"""The page shows a site's data, rounds, ledger and model, in every state that they can be in, and changes nothing."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient
from tests.agent.ui.site import after_two_rounds, lead_model_to, picture_site, site_config
from tests.datasets.makers import picture

from fedafd import PersonalizedModel
from fedafd.agent.own_data import load_own_data
from fedafd.agent.state import StateDirectory
from fedafd.agent.ui import uploads
from fedafd.agent.ui.app import create_app
from fedafd.datasets import load_client_data
from fedafd.datasets.samples import PairSplit
from fedafd.domain.config import AgentConfig
from fedafd.domain.kinds import ClientKind
from fedafd.learning.search_index import nearest

HOST, KEY = "127.0.0.1:8765", "the-key"


class Visitor(TestClient):
    """A browser that has opened the printed address."""

    def text(self, path: str = "/") -> str:
        answer = self.get(path)
        assert answer.status_code == 200
        return html.unescape(answer.text)

    def token(self) -> str:
        found = re.search(r'name="token" value="([^"]+)"', self.get("/").text)
        assert found is not None
        return found[1]

    def submit(self, path: str, *, file: tuple[str, bytes] | None = None, **fields: str) -> httpx2.Response:
        parts = {"token": (None, self.token()), **{name: (None, value) for name, value in fields.items()}}
        return self.post(path, files=parts | ({} if file is None else {"file": file}))

    def looked(self) -> str:
        self.submit("/look")
        return self.when_done()

    def when_done(self) -> str:
        deadline = time.monotonic() + 60
        while 'http-equiv="refresh"' in (text := self.text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return text


@contextmanager
def visiting(config: AgentConfig) -> Iterator[Visitor]:
    app = create_app(config, hosts=frozenset({HOST}), key=KEY)
    with Visitor(app, base_url=f"http://{HOST}") as visitor:
        answer = visitor.get("/", params={"key": KEY})
        assert answer.status_code == 200
        visitor.base_url = answer.url.copy_with(query=None)
        yield visitor


def everything_below(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_before_the_first_start_each_section_says_what_will_be_there(tmp_path: Path) -> None:
    config = site_config(tmp_path, ClientKind.TEXT)
    with visiting(config) as visitor:
        text = visitor.text()
    for words in (
        "not enrolled yet",
        "Nobody has looked",
        "No round was delivered",
        "Nothing has left",
        "no model yet",
    ):
        assert words in text
    assert not config.state_dir.exists()


def test_after_rounds_it_shows_them_and_what_left(tmp_path: Path) -> None:
    config = after_two_rounds(site_config(tmp_path, ClientKind.TEXT))
    with visiting(config) as visitor:
        text = visitor.text()
        whole = visitor.text("/sent")
    assert "north" in text and "f1" in text
    assert "s3cret" not in text + whole
    assert re.findall(r'<td class="number main">([\d.]+)', text) == ["50.0", "53.0"]
    assert re.findall(r'class="number (better|worse)"[^>]*>([+-][\d.]+)', text) == [
        ("worse", "-1.0"),
        ("better", "+2.0"),
    ]
    assert "The personalized model of round 2 is worse than the frozen global model" in text
    assert "not running" in text
    assert "2.0 MiB" in text and "5 entries" in text
    assert "e" * 64 in whole and '"federated/acc1": 54.0' in whole
    assert whole.index("2" * 64) < whole.index("1" * 64) < whole.index("e" * 64)


def test_a_long_ledger_comes_in_pages_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    config = after_two_rounds(site_config(tmp_path, ClientKind.TEXT))
    path = config.state_dir / "sent.jsonl"
    line = path.read_text().splitlines()[0]
    path.write_text("\n".join([line.replace("e" * 64, f"{n:064d}") for n in range(250)] + ['{"at": "torn', ""]))
    with visiting(config) as visitor:
        text, last = visitor.text(), visitor.text("/sent?page=3")
        beyond = [visitor.text(f"/sent?page={asked}") for asked in ("4", "0", "-1", "x", "9" * 40, "²")]
    assert "line 251" in text and "250 entries" in text
    assert f"{0:064d}" in last and f"{50:064d}" not in last
    assert "page 3 of 3" in beyond[0] and all("page 1 of 3" in each for each in beyond[1:])


def test_a_look_here_is_the_report_of_a_start_and_nothing_is_written(tmp_path: Path) -> None:
    config = picture_site(tmp_path)
    next((tmp_path / "data").rglob("*.png")).with_name("notes.heic").write_bytes(b"x")
    (tmp_path / "state" / "state").mkdir(parents=True)
    before = everything_below(tmp_path)
    with visiting(config) as visitor:
        text = visitor.looked()
        sheet = visitor.get("/sheet.png")
    assert everything_below(tmp_path) == before
    assert sheet.content.startswith(b"\x89PNG")
    own = load_own_data(config, StateDirectory(config.state_dir).root)
    assert own.looked and str(own.report["fingerprint"])[:16] in text
    assert all(words in text for words in ("cat", "dog", "36 read, of 37", "of another ending (.heic)"))
    with visiting(config) as visitor:
        assert str(own.report["fingerprint"])[:16] in visitor.text()


def test_data_that_changed_since_the_look_are_told(tmp_path: Path) -> None:
    config = picture_site(tmp_path)
    load_own_data(config, StateDirectory(config.state_dir).root)
    with visiting(config) as visitor:
        assert "changed since" not in visitor.text()
    (tmp_path / "data" / "train" / "cat" / "new.png").write_bytes(picture(99))
    with visiting(config) as visitor:
        assert "changed since" in visitor.text()
        assert "changed since" not in visitor.looked()


def test_what_is_wrong_with_the_data_is_told_and_names_are_text(tmp_path: Path) -> None:
    config = picture_site(tmp_path)
    folder = tmp_path / "data" / "train" / "<script>alert(1)"
    folder.mkdir()
    (folder / "a&b\udcff.png").write_bytes(b"no picture")
    with visiting(config) as visitor:
        visitor.looked()
        raw = visitor.get("/").text
    assert "1 cannot be read" in raw and "Cannot be used" in raw
    assert "<script" not in raw and "&lt;script&gt;alert(1)" in raw and "a&amp;b" in raw


def test_names_that_are_no_characters_are_shown_as_their_bytes(tmp_path: Path) -> None:
    config = picture_site(tmp_path / "caf\udce9")
    with visiting(config) as visitor:
        assert r"caf\udce9" in visitor.looked()


def test_data_that_are_not_there_are_an_error_in_their_place(tmp_path: Path) -> None:
    config = after_two_rounds(picture_site(tmp_path))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with visiting(config) as visitor:
        text = visitor.looked()
        assert f"{tmp_path / 'data'}: not a folder" in text and "2.0 MiB" in text and "Try it" in text
        assert visitor.get("/sheet.png").status_code == 400


def test_a_picture_gets_the_labels_that_the_model_gives_its_file(tmp_path: Path) -> None:
    config = after_two_rounds(picture_site(tmp_path))
    path = next((tmp_path / "data").rglob("*.png"))
    model = PersonalizedModel.from_pretrained(config.state_dir / "model", device="cpu")
    (expected,) = model.predict([path], top_k=5)
    before = everything_below(tmp_path)
    with visiting(config) as visitor:
        text = html.unescape(visitor.submit("/model", file=("kitten.png", path.read_bytes())).text)
    shown = re.findall(r'<tr><th scope="row">([^<]+)</th><td class="bar">.*?([\d.]+) %', text)
    assert shown == [(label, f"{100 * probability:.1f}") for label, probability in expected]
    assert "kitten.png" in text and "data:image/png;base64," in text
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (("scan.png", b"no picture at all"), "scan.png"),
        (("", b""), "choose a picture first"),
        (("empty.png", b""), "empty.png: is empty"),
        (("<b>.png", b"GIF89a"), "<b>.png"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path, file: tuple[str, bytes], words: str) -> None:
    with visiting(after_two_rounds(picture_site(tmp_path))) as visitor:
        answer = visitor.submit("/model", file=file)
    assert answer.status_code == 200
    assert words in html.unescape(answer.text) and "<b>" not in answer.text


def test_a_text_is_tried_stays_in_the_form_and_follows_a_new_model(tmp_path: Path) -> None:
    config = after_two_rounds(site_config(tmp_path, ClientKind.TEXT))
    with visiting(config) as visitor:
        text = visitor.submit("/model", text="a large <red> circle").text
        assert "Of round 2" in text and "</textarea>" in text and "a large &lt;red&gt; circle</textarea>" in text
        assert len(re.findall(r"<meter", text)) == 5
        assert "type a text first" in visitor.submit("/model", text=" \n").text
        lead_model_to(config, 3)
        assert "Of round 3" in visitor.submit("/model", text="a large circle").text


def test_a_caption_finds_the_pictures_that_the_model_finds(tmp_path: Path) -> None:
    config = after_two_rounds(site_config(tmp_path, ClientKind.PAIR))
    model = PersonalizedModel.from_pretrained(config.state_dir / "model", device="cpu")
    data = load_client_data("shapes", None, ClientKind.PAIR, config.data.options, None)
    assert isinstance(data.val, PairSplit) and isinstance(data.test, PairSplit)
    names = [f"{name}/{n}" for name, split in (("val", data.val), ("test", data.test)) for n in range(len(split))]
    rows = model.embed_images([*data.val.images, *data.test.images])
    best = nearest(model.embed_texts(["a red circle"])[0], names, rows, 12)
    with visiting(config) as visitor:
        assert visitor.get("/pictures/val/0.png").status_code == 404
        assert "read the pictures first" in visitor.submit("/model", caption="a red circle").text
        visitor.submit("/pictures")
        assert "pictures among 40" in visitor.when_done()
        text = visitor.submit("/model", caption="a red circle").text
        assert re.findall(r'src="\S+/pictures/(\S+)\.png"', text) == [hit.name for hit in best]
        assert visitor.get(f"/pictures/{best[0].name}.png").content.startswith(b"\x89PNG")
        for path in ("train/0", "val/16", "val/-1", "labels/0", "../val/0"):
            assert visitor.get(f"/pictures/{path}.png").status_code == 404
        lead_model_to(config, 3)
        assert "Read the pictures" in visitor.text()


def test_a_model_that_is_damaged_is_an_error_in_its_place(tmp_path: Path) -> None:
    config = after_two_rounds(site_config(tmp_path, ClientKind.TEXT))
    with visiting(config) as visitor:
        (config.state_dir / "model" / "model.safetensors").write_bytes(b"rotten")
        answer = visitor.submit("/model", text="a circle")
        assert answer.status_code == 200 and "model.safetensors" in answer.text
        (config.state_dir / "model" / "config.json").write_text("{")
        assert "config.json" in visitor.text()


def test_an_upload_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "FILE_BYTES", 1000)
    with visiting(after_two_rounds(picture_site(tmp_path))) as visitor:
        assert "larger than" in visitor.submit("/model", file=("a.png", b"x" * 1001)).text
        token = visitor.token()

        def unannounced() -> Iterator[bytes]:
            yield f'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\n{token}\r\n'.encode()
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
            yield from [b"x" * 100_000] * 20

        answer = visitor.post(
            "/model", content=unannounced(), headers={"content-type": "multipart/form-data; boundary=b"}
        )
        assert answer.status_code == 400 and "larger than" in answer.text


def test_an_upload_is_never_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with visiting(after_two_rounds(picture_site(tmp_path))) as visitor:
        answer = visitor.submit("/model", file=("a.png", picture(1, (1500, 1500))))
    assert "<meter" in answer.text


def test_a_form_that_is_none_and_a_path_that_is_none_are_pages(tmp_path: Path) -> None:
    with visiting(site_config(tmp_path, ClientKind.TEXT)) as visitor:
        assert visitor.post("/model", data={"text": "a"}).status_code == 400
        assert visitor.post("/model", content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400
        missing = visitor.get("/elsewhere")
        assert missing.status_code == 404 and "Back to the page" in missing.text
        assert visitor.get("/look").status_code == 405
