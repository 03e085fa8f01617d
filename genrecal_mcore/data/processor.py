"""One model's view of the data: its tokenizer, its image processor, its chat format."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    GotOcr2ImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from genrecal_mcore.config import Family, family_of_hf_folder
from genrecal_mcore.data.chat import TokenBuilder, add_question, add_start, render_conversation, token_id
from genrecal_mcore.data.families import FAMILIES, FamilyRecord
from genrecal_mcore.data.families.record import ImageTokens
from genrecal_mcore.data.internlm2_tokenizer import load_internlm2_tokenizer
from genrecal_mcore.data.text_ends import text_ends
from genrecal_mcore.data.types import (
    BrokenSample,
    Microbatch,
    RenderedSample,
    Sample,
    TextEnds,
    Turn,
    VisionInputs,
)
from genrecal_mcore.layouts import is_native, language_body_spec, native_config_of, read_json_object

ImageSize = tuple[int, int]
"""Width, height in pixels."""

DIGESTED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
DEFAULT_MAX_TILES = {"internvl_chat": 12, "NVLM_D": 6}
"""By `model_type`, where the published config does not say."""


class ModelProcessor:
    """Renders samples for one model; see `load_processor`."""

    def __init__(
        self,
        folder: Path,
        record: FamilyRecord,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: Any,
        *,
        finds_text_ends: bool = False,
    ) -> None:
        self.folder = folder
        self.record = record
        self.tokenizer = tokenizer
        chat = record.chat(read_json_object(folder / "config.json"))
        self.chat = replace(chat, starts_with_bos=_starts_with_bos(tokenizer))
        self.image_processor = image_processor
        self.finds_text_ends = finds_text_ends
        self.hf_config = native_config_of(folder)
        self.end_of_turn_id = token_id(tokenizer, self.chat.end_of_turn)
        self.image_token_id = token_id(tokenizer, self.chat.image_token)
        pad = tokenizer.pad_token_id
        self.pad_token_id = self.end_of_turn_id if pad is None else pad
        configured = self.hf_config.get("image_token_id")
        if configured != self.image_token_id:
            raise ValueError(
                f"{folder}: config.json says image_token_id {configured}, but the tokenizer gives "
                f"{self.chat.image_token} the id {self.image_token_id}; one file is of another model"
            )

    def __reduce__(self) -> tuple[Callable[[Path], "ModelProcessor"], tuple[Path]]:
        """Travel to another process as the folder that it came from."""
        return load_processor, (self.folder,)

    @property
    def vocab_size(self) -> int:
        """Rows of the model's head, those that name no token included."""
        return language_body_spec(self.hf_config).vocab_size

    @property
    def digest(self) -> str:
        """Return a sha256 over the files that decide how this processor renders."""
        digest = sha256(repr(self.chat).encode())
        for name in DIGESTED_FILES:
            path = self.folder / name
            digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()

    def render(self, sample: Sample, image_sizes: Sequence[ImageSize]) -> RenderedSample:
        """Render a sample whose images have `image_sizes`.

        Raises `BrokenSample` when an answer does not decode back from its span.
        """
        tokens = self._image_tokens(image_sizes)
        counts = [items for items, _ in tokens]
        builder, spans = render_conversation(self.tokenizer, self.chat, sample.turns, counts)
        answers = [
            (builder.ids[start : end - 1], turn)
            for turn, (start, end) in zip(sample.turns, spans, strict=True)
        ]
        for ids, turn in answers:
            self._check_answer(turn, ids)
        placed = [(first, grid) for (first, _), (_, grid) in zip(builder.images, tokens, strict=True)]
        return RenderedSample(
            sample_id=sample.id,
            input_ids=torch.tensor(builder.ids),
            position_ids=self.record.position_ids(len(builder.ids), placed),
            answer_spans=spans,
            features_per_item=tuple(count for items, _ in tokens for count in items),
            text_ends=self._text_ends(answers) if self.finds_text_ends else None,
        )

    def _text_ends(self, answers: Sequence[tuple[list[int], Turn]]) -> tuple[TextEnds, ...]:
        return tuple(text_ends(self.tokenizer, ids, turn.answer) for ids, turn in answers)

    def _check_answer(self, turn: Turn, ids: list[int]) -> None:
        decoded = self.decode(ids)
        if unicodedata.normalize("NFC", decoded) != unicodedata.normalize("NFC", turn.answer):
            raise BrokenSample(f"the answer {turn.answer!r} decodes back as {decoded!r}")

    def _image_tokens(self, sizes: Sequence[ImageSize]) -> list[ImageTokens]:
        return [self.record.image_tokens(self.image_processor, self.hf_config, size) for size in sizes]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def pixels(self, images: Sequence[Image.Image]) -> VisionInputs | None:
        """Return what the vision tower reads of `images`, in order; None when there are none."""
        if not images:
            return None
        tokens = self._image_tokens([image.size for image in images])
        out = self.image_processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        return VisionInputs(
            pixel_values=out["pixel_values"],
            image_grid_thw=out.get("image_grid_thw"),
            features_per_item=tuple(count for items, _ in tokens for count in items),
        )

    def collate(
        self,
        rendered: Sequence[RenderedSample],
        vision: VisionInputs | None = None,
        *,
        pad_to_multiple_of: int = 1,
    ) -> Microbatch:
        """Pad samples on the right to the longest, rounded up to a multiple of `pad_to_multiple_of`."""
        return collate(
            rendered, vision, pad_token_id=self.pad_token_id, pad_to_multiple_of=pad_to_multiple_of
        )

    def render_prompt(self, turns: Sequence[Turn], image_sizes: Sequence[ImageSize]) -> list[int]:
        """Return the tokens before the last turn's answer: what the model is asked to continue."""
        tokens = self._image_tokens(image_sizes)
        counts = [items for items, _ in tokens]
        if len(turns) == 1:
            builder = TokenBuilder(self.tokenizer)
            add_start(builder, self.chat)
            add_question(builder, self.chat, turns[0].question, counts, 0)
            return builder.ids
        builder, spans = render_conversation(self.tokenizer, self.chat, turns, counts)
        return builder.ids[: spans[-1][0]]

    def collate_prompts(
        self, prompts: Sequence[Sequence[int]], vision: VisionInputs | None
    ) -> dict[str, torch.Tensor]:
        """Pad prompts on the left and return the keyword arguments of transformers' `generate`."""
        width = max(len(prompt) for prompt in prompts)
        input_ids = torch.full((len(prompts), width), self.pad_token_id, dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for row, (ids, seen) in enumerate(zip(input_ids, mask, strict=True)):
            ids[width - len(prompts[row]) :] = torch.tensor(prompts[row])
            seen[width - len(prompts[row]) :] = 1
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if vision is not None:
            inputs["pixel_values"] = vision.pixel_values
            if vision.image_grid_thw is not None:
                inputs["image_grid_thw"] = vision.image_grid_thw
                inputs["mm_token_type_ids"] = ((input_ids == self.image_token_id) & (mask == 1)).long()
        return inputs


def collate(
    rendered: Sequence[RenderedSample],
    vision: VisionInputs | None,
    *,
    pad_token_id: int,
    pad_to_multiple_of: int,
) -> Microbatch:
    """Pack samples one after another; the rest up to a multiple of `pad_to_multiple_of` is padding."""
    lengths = tuple(len(sample.input_ids) for sample in rendered)
    rest = -sum(lengths) % pad_to_multiple_of
    input_ids = [sample.input_ids for sample in rendered]
    position_ids = [sample.position_ids for sample in rendered]
    ends = [sample.text_ends for sample in rendered if sample.text_ends is not None]
    if rest:
        input_ids.append(torch.full((rest,), pad_token_id))
        position_ids.append(torch.arange(rest).expand(*position_ids[0].shape[:-1], rest))
    return Microbatch(
        sample_ids=tuple(sample.sample_id for sample in rendered),
        input_ids=torch.cat(input_ids)[None],
        position_ids=torch.cat(position_ids, dim=-1).unsqueeze(-2),
        lengths=lengths,
        answer_spans=tuple(sample.answer_spans for sample in rendered),
        vision=vision,
        text_ends=tuple(ends) if len(ends) == len(rendered) else None,
    )


def load_processor(
    folder: Path, family: Family | None = None, *, finds_text_ends: bool = False
) -> ModelProcessor:
    """Load the processor of a Hugging Face folder or of a converted teacher's `tokenizer/` folder.

    With `finds_text_ends` it says of each answer token how much text is known there, which takes time.
    Raises `ValueError` when a file is missing or of another family.
    """
    found = family_of_hf_folder(folder)
    if family is not None and found != family:
        raise ValueError(f"{folder} is of family {found.value}, but {family.value} was expected")
    published = read_json_object(folder / "config.json")
    needed = ("tokenizer_config.json", *(["preprocessor_config.json"] if is_native(published) else []))
    for name in needed:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} does not exist; a model's folder must hold this file")
    return ModelProcessor(
        folder,
        FAMILIES[found],
        load_tokenizer(folder),
        load_image_processor(folder),
        finds_text_ends=finds_text_ends,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer; no code from the folder is run, although InternLM2's asks for it."""
    published = read_json_object(folder / "config.json")
    body = published.get("llm_config") or {}
    if body.get("architectures") == ["InternLM2ForCausalLM"] and (folder / "tokenizer.model").is_file():
        return load_internlm2_tokenizer(folder)
    # A model type that transformers does not know would make it warn; the tokenizer's class does not need it.
    config = {} if is_native(published) else {"config": PretrainedConfig()}
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **config)


def _starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the tokenizer itself puts its begin-of-text token before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("")["input_ids"][:1] == [bos]


def load_image_processor(folder: Path) -> Any:
    """Load a folder's image processor; layouts that are not native have its settings in `config.json`.

    Such folders may hold a CLIP processor's file, which their makers' own code does not read: tiles, mean and
    deviation are those of `dynamic_preprocess` in OpenGVLab/InternVL.
    """
    published = read_json_object(folder / "config.json")
    if is_native(published):
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not published.get("use_thumbnail", True):
        raise ValueError(f"{folder / 'config.json'}: use_thumbnail false is not supported; expected true")
    size = published["force_image_size"]
    return GotOcr2ImageProcessor(
        size={"height": size, "width": size},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        crop_to_patches=published.get("dynamic_image_size", True),
        min_patches=published.get("min_dynamic_patch", 1),
        max_patches=published.get("max_dynamic_patch", DEFAULT_MAX_TILES[published["model_type"]]),
    )
