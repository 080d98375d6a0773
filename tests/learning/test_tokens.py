"""Word-level tokens: spaced scripts as ever, scripts without spaces by characters, and how much a vocabulary lacks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel

from fedafd.learning.tokens import build_tokenizer, token_ids, unknown_share

CHARACTERS = {
    "Chinese": ["医", "院", "足", "球", "𠀀", "〇"],
    "Japanese": ["病", "ひ", "が", "カ", "ー", "々", "ッ"],
    "Thai": ["ก", "ลั", "เ", "รี", "ย", "น้", "กุ๊"],
    "Lao": ["ກ", "ລັ", "ນ້", "ເ", "ມື່"],
    "Khmer": ["ក", "ខ្មែ", "រ", "ស្រី", "ញ៉ាំ"],
    "Burmese": ["မြ", "န်", "မာ", "ဘာ", "သ္သ", "ကျွ"],
    "Yi": ["ꆈ", "ꌠ", "ꉙ"],
    "Javanese": ["ꦗ", "ꦮ", "ꦧ꧀ꦱ", "ꦏꦶ"],
    "Tai Tham": ["ᨠ", "ᨣᩣᩴ", "ᨻ᩠ᨿ"],
}
SPACED = st.text(st.characters(categories=("L", "M", "N", "P", "S", "Z"), max_codepoint=0x0DFF), max_size=40)
"""Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic and the Indic scripts: all before Thai."""


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    normal = tokenizer.normalizer.normalize_str(text)
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


@pytest.mark.parametrize("language", CHARACTERS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_script_without_spaces_is_split_as_if_it_had_them(language: str, data: st.DataObject) -> None:
    texts = [data.draw(st.lists(st.sampled_from(CHARACTERS[language]), min_size=1, max_size=12)) for _ in range(3)]
    joined, spaced = ["".join(text) for text in texts], [" ".join(text) for text in texts]
    one, other = build_tokenizer(joined), build_tokenizer(spaced)
    assert one.get_vocab() == other.get_vocab()
    assert token_ids(one, joined, 16).equal(token_ids(other, spaced, 16))
    assert token_ids(Tokenizer.from_str(one.to_str()), joined, 16).equal(token_ids(one, joined, 16))
    assert unknown_share(one, joined) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我在MIT学习3天。", ["我", "在", "mit", "学", "习", "3", "天", "。"]),
        ("コンピューター2000台", ["コ", "ン", "ピ", "ュ", "ー", "タ", "ー", "2000", "台"]),
        ("ﾊﾟﾝ", ["パ", "ン"]),
        ("ราคา ๑๒๓ บาท", ["ร", "า", "ค", "า", "๑๒๓", "บ", "า", "ท"]),
        ("བོད་ཡིག", ["བོད", "་", "ཡིག"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("tiếng Việt", ["tiếng", "việt"]),
    ],
)
def test_words_are_split_where_a_reader_would(text: str, expected: list[str]) -> None:
    assert pieces(build_tokenizer([]), text) == expected


@settings(deadline=None, max_examples=300)
@given(texts=st.lists(SPACED, max_size=4))
def test_spaced_scripts_have_the_tokens_they_always_had(texts: list[str]) -> None:
    before = Tokenizer(WordLevel({}, unk_token="[UNK]"))
    before.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    before.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    made = build_tokenizer(texts)
    for text in texts:
        assert pieces(made, text) == pieces(before, text)


def test_the_unknown_share_counts_tokens_not_texts() -> None:
    made = build_tokenizer(["a red cat", "一只红猫"])
    assert unknown_share(made, ["a red cat", "红猫"]) == 0
    assert unknown_share(made, ["a dog", "红狗", "red"]) == pytest.approx(2 / 5)
    assert unknown_share(made, ["", "a"]) == pytest.approx(1 / 2)
    assert unknown_share(made, []) == 0


def test_the_unknown_share_knows_each_kind_of_vocabulary() -> None:
    letters = Tokenizer(Unigram([("<pad>", 0.0), ("<unk>", -9.0), ("a", -1.0), ("b", -1.0)], unk_id=1))
    letters.enable_padding(pad_id=0, pad_token="<pad>")
    assert unknown_share(letters, ["ab", "abax"]) == pytest.approx(1 / 6)
    without = Tokenizer(BPE({"a": 0}, []))
    assert unknown_share(without, ["aaa"]) == 0
