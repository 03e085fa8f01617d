"""Says how much of an answer's text is known at each of its tokens, so that two tokenizers can be compared.

Counted in bytes of UTF-8: a token may end inside a character. What a tokenizer changed before it cut the text
(spaces, composed characters) has no such count, and none is guessed.
"""

import re
from collections.abc import Sequence
from itertools import accumulate

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from genrecal_mcore.data.types import TextEnds

_BYTE_OF_CHARACTER = {character: bytes([byte]) for byte, character in bytes_to_unicode().items()}
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_SPACE = "\u2581"


def text_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> TextEnds:
    """Return the ends of the tokens `ids` of `text`, and of the end-of-turn token after them."""
    pieces, expected = tokenizer.convert_ids_to_tokens(list(ids)), text.encode()
    for spelled in (_byte_level(pieces), _sentencepiece(pieces)):
        if b"".join(spelled) == expected:
            return (*accumulate(map(len, spelled)), len(expected) + 1)
    return None


def _byte_level(pieces: Sequence[str]) -> list[bytes]:
    """Return the bytes of pieces that write each byte as a character (GPT-2, Qwen2, Llama 3)."""
    return [b"".join(_BYTE_OF_CHARACTER.get(character, b"") for character in piece) for piece in pieces]


def _sentencepiece(pieces: Sequence[str]) -> list[bytes]:
    """Return the bytes of pieces that write spaces as `_SPACE`, and a lone byte as `<0x0A>` (InternLM2)."""
    return [
        bytes([int(found[1], 16)])
        if (found := _BYTE.fullmatch(piece))
        else piece.replace(_SPACE, " ").encode()
        for piece in pieces
    ]
