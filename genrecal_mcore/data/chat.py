"""Chat formats as data, and the rendering of a conversation into tokens with the answers' spans.

Question text can never become a special token: only the format itself writes those. An answer is tokenised
apart from what stands before it, so that its tokens do not depend on the question.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from genrecal_mcore.data.types import IMAGE_PLACEHOLDER, AnswerSpan, Turn

_IMAGE = re.compile(re.escape(IMAGE_PLACEHOLDER) + "\n?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFormat:
    """How a family writes a conversation; special tokens and plain text are kept apart."""

    system: str | None
    """System message that stands before every conversation, if any."""
    starts_with_bos: bool = False
    start_of_turn: str = "<|im_start|>"
    end_of_turn: str = "<|im_end|>"
    after_turn: str = "\n"
    image_start: str
    image_end: str
    image_token: str
    after_image: str
    """Text between an image and what follows; a newline after the placeholder is replaced by it."""
    tile_tag: str | None = None
    """Plain text before each tile, `{}` for its number; an image's start and end are then plain text too."""
    last_tile_tag: str = ""
    """Plain text before the last tile of an image, which is the thumbnail or the only one."""


@dataclass(slots=True)
class TokenBuilder:
    """Collects tokens, joining neighbouring text before it is tokenised, as a chat template would have it."""

    tokenizer: PreTrainedTokenizerBase
    ids: list[int] = field(default_factory=list)
    pending: str = ""
    images: list[tuple[int, int]] = field(default_factory=list)
    """First token and number of tokens of each image."""

    def text(self, text: str) -> None:
        """Add plain text."""
        self.pending += text

    def special(self, token: str, count: int = 1) -> None:
        """Add a special token, `count` times."""
        self.flush()
        self.ids += [token_id(self.tokenizer, token)] * count

    def flush(self) -> None:
        """Tokenise the text collected so far."""
        if self.pending:
            self.ids += encode_text(self.tokenizer, self.pending)
            self.pending = ""


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of plain text; what looks like a special token in it stays text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Return the id of a special token; raises `ValueError` when the vocabulary lacks it."""
    number = tokenizer.convert_tokens_to_ids(token)
    if number is None or number == tokenizer.unk_token_id and token != tokenizer.unk_token:
        raise ValueError(
            f"the tokenizer in {tokenizer.name_or_path} has no token {token!r}, which its chat format needs"
        )
    return int(number)


def add_image(builder: TokenBuilder, chat: ChatFormat, tokens_per_tile: Sequence[int]) -> None:
    """Add an image: its tags and the tokens that its features replace."""
    if chat.tile_tag is None:
        builder.special(chat.image_start)
        builder.images.append((len(builder.ids), sum(tokens_per_tile)))
        builder.special(chat.image_token, sum(tokens_per_tile))
        builder.special(chat.image_end)
    else:
        builder.text(chat.image_start)
        builder.images.append((len(builder.ids), sum(tokens_per_tile)))
        for number, count in enumerate(tokens_per_tile, start=1):
            is_last = number == len(tokens_per_tile)
            builder.text(chat.last_tile_tag if is_last else chat.tile_tag.format(number))
            builder.special(chat.image_token, count)
        builder.text(chat.image_end)
    builder.text(chat.after_image)


def add_question(
    builder: TokenBuilder,
    chat: ChatFormat,
    question: str,
    image_tokens: Sequence[Sequence[int]],
    first_image: int,
) -> int:
    """Add one user turn and the assistant's header; return how many images have been used so far."""
    builder.special(chat.start_of_turn)
    builder.text("user\n")
    used = first_image
    for number, text in enumerate(_IMAGE.split(question)):
        if number:
            add_image(builder, chat, image_tokens[used])
            used += 1
        builder.text(text)
    builder.special(chat.end_of_turn)
    builder.text(chat.after_turn)
    builder.special(chat.start_of_turn)
    builder.text("assistant\n")
    builder.flush()
    return used


def add_start(builder: TokenBuilder, chat: ChatFormat) -> None:
    """Add what stands before the first question: the begin-of-text token, the system turn."""
    if chat.starts_with_bos:
        builder.special(builder.tokenizer.bos_token)
    if chat.system is not None:
        builder.special(chat.start_of_turn)
        builder.text(f"system\n{chat.system}")
        builder.special(chat.end_of_turn)
        builder.text(chat.after_turn)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatFormat,
    turns: Sequence[Turn],
    image_tokens: Sequence[Sequence[int]],
) -> tuple[TokenBuilder, tuple[AnswerSpan, ...]]:
    """Return the tokens of a conversation up to the last end-of-turn token, and the span of each answer.

    `image_tokens` holds, for each image, the number of image tokens of each tile.
    """
    builder = TokenBuilder(tokenizer)
    add_start(builder, chat)
    spans: list[AnswerSpan] = []
    used = 0
    for turn in turns:
        if spans:
            builder.text(chat.after_turn)
        used = add_question(builder, chat, turn.question, image_tokens, used)
        start = len(builder.ids)
        builder.text(turn.answer)
        builder.special(chat.end_of_turn)
        spans.append((start, len(builder.ids)))
    return builder, tuple(spans)
