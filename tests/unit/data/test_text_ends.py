from pathlib import Path

import pytest

from genrecal_mcore.data import Sample, Turn, load_processor
from genrecal_mcore.data.chat import encode_text
from genrecal_mcore.data.text_ends import text_ends
from tests.helpers.published_models import make_published_model

KINDS = {
    "byte-level": "Qwen2-VL-2B",
    "composes characters": "InternVL2.5-1B",
    "sentencepiece": "InternVL2.5-2B",
}
TEXTS = (
    "It is a blue circle.",
    " two  spaces\n\tand a tab ",
    "\u4e2d\u6587\u2026 \u00e9 \U0001f600",
    "<0x41> <|im_end|>",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: make_published_model(root / name, name, seed=1) for kind, name in KINDS.items()}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_ends_are_those_of_the_text_that_is_decoded_so_far(
    kind: str, text: str, folders: dict[str, Path]
) -> None:
    processor = load_processor(folders[kind])
    ids = encode_text(processor.tokenizer, text)
    ends = text_ends(processor.tokenizer, ids, text)
    assert ends is not None and len(ends) == len(ids) + 1
    assert ends[-2:] == (len(text.encode()), len(text.encode()) + 1)
    assert list(ends) == sorted(ends)
    for k, end in enumerate(ends[:-1], start=1):
        known = text.encode()[:end].decode(errors="replace")
        if "\ufffd" not in known:  # decoders show torn characters in different ways
            assert processor.decode(ids[:k]) == known


def test_a_text_that_the_tokenizer_changes_has_no_known_ends(folders: dict[str, Path]) -> None:
    text = "e\u0301 composed"
    processor = load_processor(folders["composes characters"])
    assert text_ends(processor.tokenizer, encode_text(processor.tokenizer, text), text) is None
    processor = load_processor(folders["byte-level"])
    assert text_ends(processor.tokenizer, encode_text(processor.tokenizer, text), text) is not None


def test_a_rendering_has_ends_only_where_they_were_asked_for(folders: dict[str, Path]) -> None:
    turns = (Turn(question="What?", answer="a box"), Turn(question="Sure?", answer="yes"))
    sample = Sample(id="0", images=(), turns=turns, source="test")
    without = load_processor(folders["byte-level"])
    assert without.render(sample, []).text_ends is None
    assert without.collate([without.render(sample, [])]).text_ends is None
    with_ends = load_processor(folders["byte-level"], finds_text_ends=True)
    rendered = with_ends.render(sample, [])
    assert rendered.text_ends is not None
    assert [ends[-1] for ends in rendered.text_ends if ends] == [len("a box") + 1, len("yes") + 1]
    assert with_ends.collate([rendered, rendered]).text_ends == (rendered.text_ends, rendered.text_ends)
