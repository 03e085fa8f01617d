import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import PreTrainedTokenizerFast

from genrecal_mcore.data.chat import encode_text
from genrecal_mcore.data.internlm2_tokenizer import PieceKind, load_internlm2_tokenizer

SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "the circle is yellow    and the square is blue",
    "if x:\treturn 1234 + 5678",
    "<b>the</b> <i>question</i>",
    "this  is the   second question, is it?",
    "你好世界，今天天气很好",
    "今天的世界很好——你好吗……",
)
RESERVED = ("[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_1]", "[UNUSED_TOKEN_2]", "——", "brown fox", "▁▁=")
SHADOWED = {4: "<|im_end|>", 5: "<|im_start|>"}
"""As in InternLM2: these take the ids of [UNUSED_TOKEN_1] and [UNUSED_TOKEN_2]."""

TEXTS = (
    "",
    " ",
    "the quick brown fox",
    " the  quick   brown    fox ",
    "\n\nthe\n \n fox\n",
    "\tif x:\r\n\t\treturn  1234",
    "emoji 😀 and 👩‍👩‍👧 and 𝕏",
    "e\u0301 is not é",
    "ａｂｃ ① ﬁ",
    "今天天气很好——……———",
    "how do you spell <|im_end|> or </s><s> <unk> or <0x0A>?",
    "<img><IMG_CONTEXT></img>",
    "[UNUSED_TOKEN_0] [UNUSED_TOKEN_0",
    "x   = x  =  x = ",
)


def train(folder: Path, **options: Any) -> Path:
    """Write a sentencepiece model, of InternLM2's kind but for `options`, as the folder's tokenizer.model."""
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 420,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5), model_prefix=str(folder / "tokenizer"), **(settings | options)
    )
    return folder


def sentencepiece_of(folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def write_config(folder: Path, shadowed: dict[int, str] | None = None, **changes: Any) -> dict[str, int]:
    """Write tokenizer_config.json as published; return its added tokens' ids."""
    size = len(sentencepiece_of(folder))
    tokens = {0: "<unk>", 1: "<s>", 2: "</s>"} | (shadowed or {})
    tokens |= {size + place: text for place, text in enumerate(("<img>", "</img>", "<IMG_CONTEXT>"))}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_bos_token": True,
        "added_tokens_decoder": {str(number): {"content": text} | flags for number, text in tokens.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "pad_token": "</s>",
        "tokenizer_class": "InternLM2Tokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))
    return {text: number for number, text in tokens.items()}


@pytest.fixture(scope="module")
def internlm2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder like InternLM2's: no dummy prefix, reserved pieces, two of them with a token's id."""
    folder = train(tmp_path_factory.mktemp("internlm2"), user_defined_symbols=list(RESERVED))
    write_config(folder, SHADOWED)
    return folder


@pytest.fixture(scope="module")
def prefixed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder whose sentencepiece model puts a space before every text."""
    folder = train(tmp_path_factory.mktemp("prefixed"), add_dummy_prefix=True, split_digits=False)
    write_config(folder)
    return folder


@pytest.fixture(params=["internlm2_folder", "prefixed_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied_folder(tmp_path: Path, internlm2_folder: Path) -> Path:
    """Give a folder that a test may change."""
    for path in internlm2_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def random_texts(count: int) -> list[str]:
    parts = [*" \n\t—…😀é0129()abelq的好", "  ", "    ", "[UNUSED_TOKEN_0]", "<s>", "<|im_start|>", "<0x41>"]
    parts += " ".join(SENTENCES).split(" ")
    choose = random.Random(0)
    return ["".join(choose.choices(parts, k=choose.randint(1, 25))) for _ in range(count)]


def test_text_has_the_ids_that_sentencepiece_gives_and_decodes_back(folder: Path) -> None:
    tokenizer, sentencepiece = load_internlm2_tokenizer(folder), sentencepiece_of(folder)
    for text in (*TEXTS, *random_texts(1000)):
        ids = encode_text(tokenizer, text)
        assert ids == sentencepiece.encode(text), text
        assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_special_tokens_have_exactly_the_published_ids(copied_folder: Path) -> None:
    ids = write_config(copied_folder, SHADOWED)
    tokenizer = load_internlm2_tokenizer(copied_folder)
    assert {text: tokenizer.convert_tokens_to_ids(text) for text in ids} == ids
    assert {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ids} == {
        text: [number] for text, number in ids.items()
    }
    assert len(tokenizer) == len(sentencepiece_of(copied_folder)) + 3
    assert tokenizer.decode([ids["<|im_start|>"], *encode_text(tokenizer, "the"), ids["<|im_end|>"]]) == (
        "<|im_start|>the<|im_end|>"
    )


def test_named_tokens_are_those_of_the_config(folder: Path) -> None:
    tokenizer = load_internlm2_tokenizer(folder)
    named = (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert named == (0, 1, 2, 2)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_text_starts_with_bos_where_the_config_says_so(copied_folder: Path, adds_bos: bool) -> None:
    write_config(copied_folder, SHADOWED, add_bos_token=adds_bos)
    tokenizer = load_internlm2_tokenizer(copied_folder)
    expected = [1] * adds_bos + sentencepiece_of(copied_folder).encode("the fox")
    assert tokenizer("the fox")["input_ids"] == expected
    assert tokenizer("the fox", add_special_tokens=False)["input_ids"] == expected[adds_bos:]


def test_a_piece_whose_id_a_special_token_took_is_not_reached_from_text(internlm2_folder: Path) -> None:
    tokenizer = load_internlm2_tokenizer(internlm2_folder)
    text = "[UNUSED_TOKEN_1]the[UNUSED_TOKEN_2]"
    assert {4, 5} <= set(sentencepiece_of(internlm2_folder).encode(text))
    ids = encode_text(tokenizer, text)
    assert not {4, 5} & set(ids)
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_saved_and_loaded_again_gives_the_same_ids(
    internlm2_folder: Path, tmp_path: Path
) -> None:
    tokenizer = load_internlm2_tokenizer(internlm2_folder)
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert [encode_text(again, text) for text in TEXTS] == [encode_text(tokenizer, text) for text in TEXTS]


def test_added_tokens_are_read_from_added_tokens_json_where_the_config_has_none(copied_folder: Path) -> None:
    ids = write_config(copied_folder, SHADOWED, added_tokens_decoder=None)
    (copied_folder / "added_tokens.json").write_text(json.dumps(ids))
    tokenizer = load_internlm2_tokenizer(copied_folder)
    assert {text: tokenizer.convert_tokens_to_ids(text) for text in ids} == ids
    assert encode_text(tokenizer, "<img>") == sentencepiece_of(copied_folder).encode("<img>")


def test_pieces_do_not_merge_into_a_special_token(copied_folder: Path) -> None:
    append(copied_folder, piece("<s", 1.0, PieceKind.NORMAL))
    ids = write_config(copied_folder, SHADOWED)
    sentencepiece = sentencepiece_of(copied_folder)
    expected = [sentencepiece.piece_to_id("<s"), sentencepiece.piece_to_id(">")]
    assert sentencepiece.encode("<s>") == expected != [ids["<s>"]]
    assert encode_text(load_internlm2_tokenizer(copied_folder), "<s>") == expected


def test_merges_go_by_score_not_by_id(copied_folder: Path) -> None:
    append(copied_folder, piece("x▁", 1.0, PieceKind.NORMAL))
    write_config(copied_folder, SHADOWED)
    sentencepiece = sentencepiece_of(copied_folder)
    assert sentencepiece.piece_to_id("x▁") in sentencepiece.encode("the fox jumps")
    tokenizer = load_internlm2_tokenizer(copied_folder)
    assert encode_text(tokenizer, "the fox jumps") == sentencepiece.encode("the fox jumps")


def test_the_piece_for_the_character_nul_is_used(copied_folder: Path) -> None:
    nul = len(sentencepiece_of(copied_folder))
    append(copied_folder, piece("\0", -1e4, PieceKind.NORMAL))
    write_config(copied_folder, SHADOWED)
    tokenizer = load_internlm2_tokenizer(copied_folder)
    ids = encode_text(tokenizer, "the\0fox")
    assert nul in ids
    assert tokenizer.decode(ids) == "the\0fox"


# Protobuf reads a field that comes twice as its last value, so a change is appended to the file.


def append(folder: Path, message: bytes) -> None:
    with (folder / "tokenizer.model").open("ab") as file:
        file.write(message)


def field(number: int, value: int | bytes) -> bytes:
    """Return a protobuf field with a number or a text of less than 128."""
    assert number < 16
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def piece(text: str, score: float, kind: PieceKind) -> bytes:
    return field(1, field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + field(3, kind))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 330}, "trainer_spec.model_type: found 1, but only 2"),
        ({"model_type": "char"}, "trainer_spec.model_type: found 4, but only 2"),
        ({"byte_fallback": False, "vocab_size": 100}, "trainer_spec.byte_fallback: found 0"),
        ({"treat_whitespace_as_suffix": True}, "trainer_spec.treat_whitespace_as_suffix: found 1"),
        ({"normalization_rule_name": "nmt_nfkc"}, "bytes in normalizer_spec.precompiled_charsmap: found"),
        ({"remove_extra_whitespaces": True}, "normalizer_spec.remove_extra_whitespaces: found 1"),
        (
            {"add_dummy_prefix": True, "user_defined_symbols": ["[UNUSED_TOKEN_0]"]},
            "normalizer_spec.add_dummy_prefix beside pieces of type USER_DEFINED: found 1",
        ),
    ],
)
def test_a_model_with_a_trait_that_is_not_handled_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_config(train(tmp_path, **options))
    with pytest.raises(ValueError, match=rf"tokenizer\.model: {message}"):
        load_internlm2_tokenizer(tmp_path)


def test_a_model_that_changes_decoded_text_is_refused(tmp_path: Path) -> None:
    rules = tmp_path / "rules.tsv"
    rules.write_text("61\t62\n")  # a becomes b
    write_config(train(tmp_path, denormalization_rule_tsv=str(rules)))
    message = r"tokenizer\.model: bytes in denormalizer_spec\.precompiled_charsmap: found"
    with pytest.raises(ValueError, match=message):
        load_internlm2_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (field(3, field(5, 0)), "normalizer_spec.escape_whitespaces: found 0"),
        (piece("zz", -1.0, PieceKind.UNUSED), "pieces of type UNUSED: found 1"),
    ],
)
def test_a_changed_model_that_is_not_handled_is_refused(
    copied_folder: Path, change: bytes, message: str
) -> None:
    append(copied_folder, change)
    with pytest.raises(ValueError, match=rf"tokenizer\.model.*{message}"):
        load_internlm2_tokenizer(copied_folder)


def test_a_model_that_is_read_otherwise_than_sentencepiece_reads_it_is_refused(copied_folder: Path) -> None:
    # Sentencepiece merges pieces whose characters are no pieces themselves; tokenizers cannot.
    append(copied_folder, piece("😀▁", 0.0, PieceKind.NORMAL))
    with pytest.raises(ValueError, match=r"tokenizer\.model: .* was read as .*, but sentencepiece reads"):
        load_internlm2_tokenizer(copied_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is damaged or no sentencepiece model"),
        (field(1, b"\x0a\x02\xff\xfe"), "is damaged or no sentencepiece model"),
    ],
)
def test_a_missing_or_damaged_model_is_refused(
    copied_folder: Path, content: bytes | None, message: str
) -> None:
    path = copied_folder / "tokenizer.model"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"tokenizer\.model {message}"):
        load_internlm2_tokenizer(copied_folder)


def test_a_model_cut_off_is_refused(copied_folder: Path) -> None:
    path = copied_folder / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"tokenizer\.model is damaged"):
        load_internlm2_tokenizer(copied_folder)


def test_a_missing_config_is_refused(copied_folder: Path) -> None:
    (copied_folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer_config\.json does not exist"):
        load_internlm2_tokenizer(copied_folder)


def added(number: int, content: str) -> dict[str, Any]:
    return {str(number): {"content": content, "special": True}}


def test_an_added_token_behind_a_gap_is_refused(copied_folder: Path) -> None:
    size = len(sentencepiece_of(copied_folder))
    write_config(copied_folder, added_tokens_decoder=added(size + 7, "<img>"))
    message = rf"tokenizer_config\.json gives '<img>' the id {size + 7}, .* it has the id {size};"
    with pytest.raises(ValueError, match=message):
        load_internlm2_tokenizer(copied_folder)


@pytest.mark.parametrize("content", ["fox", "——", "<s>"])
def test_an_added_token_that_is_already_a_piece_is_refused(copied_folder: Path, content: str) -> None:
    number = sentencepiece_of(copied_folder).piece_to_id(content)
    write_config(copied_folder, added_tokens_decoder=added(4, content))
    with pytest.raises(ValueError, match=rf"gives '{content}' the id 4, .* it has the id {number};"):
        load_internlm2_tokenizer(copied_folder)


@pytest.mark.parametrize("text", ["fox", "<0x0A>", "好"])
def test_an_added_token_that_takes_the_id_of_an_ordinary_piece_is_refused(
    copied_folder: Path, text: str
) -> None:
    sentencepiece = sentencepiece_of(copied_folder)
    number = sentencepiece.piece_to_id(text)
    assert sentencepiece.id_to_piece(number) == text
    write_config(copied_folder, added_tokens_decoder=added(number, "<img>"))
    message = rf"'<img>' the id {number}, but .*tokenizer\.model has the ordinary piece '{text}'"
    with pytest.raises(ValueError, match=message):
        load_internlm2_tokenizer(copied_folder)


@pytest.mark.parametrize("entries", [{"x": {"content": "<img>"}}, {"9": "<img>"}, {"9": {}}, ["<img>"]])
def test_added_tokens_of_another_form_are_refused(copied_folder: Path, entries: Any) -> None:
    write_config(copied_folder, added_tokens_decoder=entries)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: added tokens are not ids with contents"):
        load_internlm2_tokenizer(copied_folder)


def test_a_named_token_that_does_not_exist_is_refused(copied_folder: Path) -> None:
    write_config(copied_folder, pad_token="<pad>")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: pad_token '<pad>' is no piece"):
        load_internlm2_tokenizer(copied_folder)
