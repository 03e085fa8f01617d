"""InternLM2's tokenizer as its makers publish it, read without running the code that its folder brings.

Such a folder holds a sentencepiece BPE model (`tokenizer.model`) and names its special tokens in
`tokenizer_config.json`. `load_internlm2_tokenizer` turns both into a tokenizer that transformers runs itself.

The model file is one protobuf message, `ModelProto` of `sentencepiece_model.proto` in google/sentencepiece.
Which pieces are user-defined and how text is normalised stands nowhere else, so that message is read here.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from genrecal_mcore.layouts import read_json_object

_MODEL_NAME = "tokenizer.model"
_CONFIG_NAME = "tokenizer_config.json"
_ADDED_NAME = "added_tokens.json"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_PROBE = " Two  spaces,\n\ta tab, 1234 and 中文……😀 "
"""Text that every loaded tokenizer must read as sentencepiece reads it."""

_SPACE = "▁"
_BPE = 2
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
"""Fields of `ModelProto`; the others are not read."""
_WIRE_VARINT, _WIRE_LENGTH = 0, 2
_WIRE_SIZES = {1: 8, 5: 4}


class PieceKind(IntEnum):
    """What a piece is for: `ModelProto.SentencePiece.Type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of the vocabulary; its id is its place in the file."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BpeModel:
    """A sentencepiece BPE model with byte fallback that leaves text as it is, but for its spaces."""

    path: Path
    processor: SentencePieceProcessor
    pieces: Sequence[Piece]
    add_dummy_prefix: bool
    """Whether a space is put before every text."""


def load_internlm2_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a published InternLM2 or InternVL folder; no code from the folder is run.

    With `split_special_tokens=True`, text becomes the ids that sentencepiece itself gives, also where it
    spells a special token. There are two exceptions. A piece whose id the folder gives to a special token, as
    `<|im_end|>` takes that of `[UNUSED_TOKEN_145]`, is not reached from text. And InternLM2's piece for the
    character NUL is used, which sentencepiece ignores since 0.2.3 (0.2.2 refuses the whole file).

    Where special tokens are asked for, the begin-of-text token is put first, unless `add_bos_token` is false.

    Raises `ValueError` naming the file when one is missing or damaged, when the model has a trait that is not
    handled, and when a token would not have the id that the folder gives it.
    """
    model = _read_model(folder / _MODEL_NAME)
    config = read_json_object(folder / _CONFIG_NAME)
    declared_in, declared = _declared_tokens(folder, config)
    _check_taken_pieces(model, declared, declared_in)
    backend = _build_backend(model, declared)
    for number, token in declared.items():
        found = backend.token_to_id(token.content)
        if found != number:
            raise ValueError(
                f"{declared_in} gives {token.content!r} the id {number}, but behind the {len(model.pieces)} "
                f"pieces of {_MODEL_NAME} it has the id {found}; one file is of another model"
            )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=str(folder),
        clean_up_tokenization_spaces=False,
        **_named_tokens(folder / _CONFIG_NAME, config, backend),
    )
    if tokenizer.bos_token is not None and config.get("add_bos_token", True):
        first = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{first[0]} $A", special_tokens=[first]
        )
    expected = model.processor.encode(_PROBE)
    found = tokenizer(_PROBE, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if found != expected:
        raise ValueError(f"{model.path}: {_PROBE!r} was read as {found}, but sentencepiece reads {expected}")
    return tokenizer


def _read_model(path: Path) -> BpeModel:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; an InternLM2 folder must hold its sentencepiece model")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path} is empty; copy it again")
    try:
        processor = SentencePieceProcessor(model_proto=data)
        pieces, specs = _read_message(data)
    except (RuntimeError, LookupError, ValueError, struct.error) as error:
        raise ValueError(f"{path} is damaged or no sentencepiece model: {error}") from None
    trainer, normalizer, denormalizer = (
        specs.get(number, {}) for number in (_TRAINER, _NORMALIZER, _DENORMALIZER)
    )
    model = BpeModel(
        path=path, processor=processor, pieces=pieces, add_dummy_prefix=bool(normalizer.get(3, True))
    )
    _check_handled(model, trainer, normalizer, denormalizer)
    return model


def _read_message(data: bytes) -> tuple[list[Piece], dict[int, dict[int, Any]]]:
    """Return the pieces of a `ModelProto`, and the fields of its other messages by number."""
    pieces: list[Piece] = []
    specs: dict[int, dict[int, Any]] = {}
    for number, value in _fields(data):
        if number == _PIECES:
            pieces.append(_read_piece(value))
        elif number in (_TRAINER, _NORMALIZER, _DENORMALIZER):
            specs.setdefault(number, {}).update(_fields(value))
    return pieces, specs


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Give number and value of each field of a protobuf message: an int for a varint, otherwise its bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _WIRE_VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
        else:
            size, at = _varint(message, at) if wire == _WIRE_LENGTH else (_WIRE_SIZES[wire], at)
            yield key >> 3, message[at : at + size]
            at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at byte `at`, and where the next field starts."""
    value = shift = 0
    while message[at] >= 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1


def _read_piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return Piece(fields.get(1, b"").decode(), score, fields.get(3, PieceKind.NORMAL))


def _check_handled(
    model: BpeModel, trainer: dict[int, Any], normalizer: dict[int, Any], denormalizer: dict[int, Any]
) -> None:
    """Raise `ValueError` for a model whose text this module would read otherwise than sentencepiece."""
    kinds = {piece.kind for piece in model.pieces}
    prefixed = model.add_dummy_prefix and PieceKind.USER_DEFINED in kinds
    for name, found, handled in (
        ("trainer_spec.model_type", trainer.get(3, 1), _BPE),
        ("trainer_spec.treat_whitespace_as_suffix", trainer.get(24, 0), 0),
        ("trainer_spec.byte_fallback", trainer.get(35, 0), 1),
        ("bytes in normalizer_spec.precompiled_charsmap", len(normalizer.get(2, b"")), 0),
        ("normalizer_spec.remove_extra_whitespaces", normalizer.get(4, 1), 0),
        ("normalizer_spec.escape_whitespaces", normalizer.get(5, 1), 1),
        ("bytes in denormalizer_spec.precompiled_charsmap", len(denormalizer.get(2, b"")), 0),
        ("pieces of type UNUSED", int(PieceKind.UNUSED in kinds), 0),
        ("normalizer_spec.add_dummy_prefix beside pieces of type USER_DEFINED", int(prefixed), 0),
    ):
        if found != handled:
            raise ValueError(f"{model.path}: {name}: found {found}, but only {handled} is handled")


def _declared_tokens(folder: Path, config: dict[str, Any]) -> tuple[Path, dict[int, AddedToken]]:
    """Return the added tokens by id, in order, and the file that names them.

    A token of `added_tokens.json`, which knows ids only, is special.
    """
    path = folder / _CONFIG_NAME
    entries: Any = config.get("added_tokens_decoder")
    if not entries and (folder / _ADDED_NAME).is_file():
        path = folder / _ADDED_NAME
        ids = read_json_object(path)
        entries = {number: {"content": text, "special": True} for text, number in ids.items()}
    try:
        tokens = {int(number): _added_token(entry) for number, entry in (entries or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: added tokens are not ids with contents: {error!r}") from None
    return path, dict(sorted(tokens.items()))


def _added_token(entry: dict[str, Any]) -> AddedToken:
    flags = {name: bool(entry.get(name)) for name in ("single_word", "lstrip", "rstrip", "special")}
    return AddedToken(entry["content"], normalized=False, **flags)


def _check_taken_pieces(model: BpeModel, declared: dict[int, AddedToken], declared_in: Path) -> None:
    """Raise `ValueError` when an added token would take the id of a piece that ordinary text needs."""
    normal = {piece.text for piece in model.pieces if piece.kind == PieceKind.NORMAL}
    for number, token in declared.items():
        if not 0 <= number < len(model.pieces) or model.pieces[number].text == token.content:
            continue
        text, kind = model.pieces[number].text, model.pieces[number].kind
        is_merged = any(text[:cut] in normal and text[cut:] in normal for cut in range(1, len(text)))
        if kind == PieceKind.BYTE or kind == PieceKind.NORMAL and (is_merged or len(text) == 1):
            raise ValueError(
                f"{declared_in} gives {token.content!r} the id {number}, but {model.path} has the ordinary "
                f"piece {text!r} there; one file is of another model"
            )


def _build_backend(model: BpeModel, declared: dict[int, AddedToken]) -> Tokenizer:
    """Build what InternLM2's own `InternLM2Converter` builds, but for merges that reach special tokens."""
    added = {number: token for number, token in enumerate(map(_own_token, model.pieces)) if token} | declared
    tokenizer = Tokenizer(_build_bpe(model, added))
    prefix = [normalizers.Prepend(_SPACE)] if model.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(content=" ", left=1)] if model.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_tokens([added[number] for number in sorted(added)])
    return tokenizer


def _build_bpe(model: BpeModel, added: dict[int, AddedToken]) -> models.BPE:
    """Build the merges of the ordinary pieces; a token of `added` only lends its id a name."""
    pieces = list(enumerate(model.pieces))
    names = {number: added[number].content if number in added else piece.text for number, piece in pieces}
    kept = {piece.text: number for number, piece in pieces if names[number] == piece.text}
    vocab = {name: number for number, name in names.items()} | kept
    normal = {
        piece.text: number
        for number, piece in pieces
        if piece.kind == PieceKind.NORMAL and number not in added
    }
    scores = {text: model.pieces[number].score for text, number in normal.items()}
    return models.BPE(
        vocab=vocab,
        merges=generate_merges(normal, scores),
        unk_token=added[model.processor.unk_id()].content,
        fuse_unk=True,
        byte_fallback=True,
    )


def _own_token(piece: Piece) -> AddedToken | None:
    """Return a piece that is no product of merges as the token that tokenizers takes out of text beforehand.

    A user-defined piece is looked for in normalised text, where no space is left that one with a space needs.
    """
    if piece.kind == PieceKind.USER_DEFINED:
        return AddedToken(piece.text, normalized=True, special=False) if " " not in piece.text else None
    if piece.kind in (PieceKind.UNKNOWN, PieceKind.CONTROL):
        return AddedToken(piece.text, normalized=False, special=True)
    return None


def _named_tokens(path: Path, config: dict[str, Any], backend: Tokenizer) -> dict[str, str]:
    """Return the tokens that the config names; transformers would silently add one that is not there."""
    named: dict[str, str] = {}
    for role in _NAMED_TOKENS:
        value = config.get(role)
        content = value.get("content") if isinstance(value, dict) else value
        if content is None:
            continue
        if backend.token_to_id(content) is None:
            raise ValueError(f"{path}: {role} {content!r} is no piece of {_MODEL_NAME} and no added token")
        named[role] = content
    return named
