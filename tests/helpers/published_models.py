"""Writes tiny random checkpoint folders as the makers publish theirs: config, weights and tokenizer files.

No two models have bodies of the same size, no two kinds of tokenizer the same tokens, so that what belongs to
one model does not fit another.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Qwen2VLImageProcessor

from checkpoint_tools.verification.tiny import original_model, randomize, tiny_model, write_published
from genrecal_mcore.layouts.published_models import PublishedModel

Json = dict[str, Any]


class BodySizes(NamedTuple):
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int


BODIES = {
    "Qwen2-VL-72B": BodySizes(48, 4, 4, 2, 88),
    "InternVL2.5-78B": BodySizes(64, 4, 8, 4, 104),
    "InternVL2-76B": BodySizes(56, 4, 4, 2, 92),
    "NVLM-D-72B": BodySizes(72, 4, 6, 2, 100),
    "Qwen2-VL-2B": BodySizes(40, 2, 4, 2, 76),
    "Qwen2-VL-7B": BodySizes(50, 3, 5, 1, 78),
    "InternVL2.5-1B": BodySizes(42, 2, 7, 1, 74),
    "InternVL2.5-2B": BodySizes(32, 2, 4, 2, 60),
    "InternVL2.5-4B": BodySizes(44, 3, 2, 1, 70),
    "InternVL2.5-8B": BodySizes(36, 3, 6, 2, 66),
    "Qwen2.5-VL-7B": BodySizes(60, 2, 6, 2, 84),
    "InternVL3-8B": BodySizes(52, 2, 2, 1, 82),
}
"""Heads and groups of the first four, the paper's teachers, divide by 2, as tensor parallelism needs it."""

TEACHERS = tuple(BODIES)[:4]
STUDENTS = tuple(BODIES)[4:10]
TEACHER_INTERNVIT_WIDTH, TEACHER_QWEN2_VL_VISION_WIDTH = 30, 24  # of a student, `tiny_model` says: 24 and 16

AUTO_MAPS = {
    "internvl_chat": {
        "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
        "AutoModel": "modeling_internvl_chat.InternVLChatModel",
        "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel",
    },
    "NVLM_D": {
        "AutoConfig": "configuration_nvlm_d.NVLM_D_Config",
        "AutoModel": "modeling_nvlm_d.NVLM_D_Model",
        "AutoModelForCausalLM": "modeling_nvlm_d.NVLM_D_Model",
    },
}

CLIP_PREPROCESSOR = {
    "crop_size": 448,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 448,
}
"""What InternVL's makers put beside their weights; their own code does not read it."""

INTERNVL_TOKENS = (
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
QWEN2_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN2_VL_TOKENS = (
    *QWEN2_TOKENS,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
)
INTERNLM2_RESERVED = tuple(f"[UNUSED_TOKEN_{number}]" for number in (141, 142, 143, 144, 145, 146))
INTERNLM2_SHADOWS = {
    "[UNUSED_TOKEN_141]": "<|plugin|>",
    "[UNUSED_TOKEN_142]": "<|interpreter|>",
    "[UNUSED_TOKEN_143]": "<|action_end|>",
    "[UNUSED_TOKEN_144]": "<|action_start|>",
    "[UNUSED_TOKEN_145]": "<|im_end|>",
    "[UNUSED_TOKEN_146]": "<|im_start|>",
}
"""Special tokens that have the id of a reserved piece."""

QWEN2_TOKENIZER_CONFIG = {
    "tokenizer_class": "Qwen2Tokenizer",
    "add_bos_token": False,
    "add_prefix_space": False,
    "bos_token": None,
    "unk_token": None,
    "errors": "replace",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
}

QWEN2_VL_TEXT = (
    "How many shapes do you see? I see one small shape.",
    "What shape is shown here? a red rectangle",
    "You are a helpful assistant.",
)
QWEN2_TEXT = (
    "Is there a circle in the image? yes, it is a blue circle.",
    "What color is the triangle? The triangle is yellow.",
    "user assistant system",
)
INTERNLM2_TEXT = (
    "The quick brown fox jumps over the lazy dog; no dog is gray.",
    "It is not shown: neither the first shape nor the other images.",
    "This string tells a story about rings and kings that sing in spring.",
)
LLAMA3_TEXT = (
    "A rectangle has four corners, a circle has none. Not yellow, but green.",
    "no, the circle is red; yes, the rectangle is blue",
    "assistant user",
)
NVLM_D_TEXT = (
    "<Image><tile_1><tile_2><tile_3><tile_global_thumbnail></Image>",
    "There are two images, and the second one shows it is gray.",
    "helpful colors, helpful shapes",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTokenizer:
    """The files of a tokenizer and what a config must know of it."""

    files: Mapping[str, bytes]
    ids: Mapping[str, int]
    """Of the special tokens."""
    num_tokens: int
    bos: str
    """As the config has it; Qwen2's tokenizers have none and their configs `<|endoftext|>`."""
    eos: str
    pad: str

    @property
    def config_ids(self) -> dict[str, int]:
        """Return the fields of a config that name these tokens."""
        return {f"{role}_token_id": self.ids[getattr(self, role)] for role in ("bos", "eos", "pad")}


def make_published_model(folder: Path, name: str, seed: int) -> Path:
    """Write a tiny checkpoint folder of a model of `PUBLISHED_MODELS`, complete with its tokenizer.

    Return the folder. Processor, student and conversion work on it as on a downloaded one.
    """
    tokenizer = TOKENIZERS[name]()
    model = _resized(name, tokenizer)
    write_published(folder, model, randomize(original_model(model), seed=seed))
    # Written for folders without a tokenizer: the image token alone.
    (folder / "added_tokens.json").unlink(missing_ok=True)
    for file, content in tokenizer.files.items():
        (folder / file).write_bytes(content)
    if model.config["model_type"] in AUTO_MAPS:
        (folder / "preprocessor_config.json").write_bytes(_as_json(CLIP_PREPROCESSOR))
    else:
        _qwen2_vl_image_processor().save_pretrained(folder)
    return folder


def _resized(name: str, tokenizer: PublishedTokenizer) -> PublishedModel:
    """Return the tiny model with a body of its own size and the ids of its tokenizer."""
    config = tiny_model(name).config
    is_qwen2_vl = config["model_type"] not in AUTO_MAPS
    body = config if is_qwen2_vl else config["llm_config"]
    body |= BODIES[name]._asdict() | tokenizer.config_ids
    # Qwen's matrices have rows that no token uses; InternVL's have as many as there are tokens.
    has_spare_rows = is_qwen2_vl or config["model_type"] == "NVLM_D"
    body["vocab_size"] = tokenizer.num_tokens + (5 if has_spare_rows else 0)
    if is_qwen2_vl:
        _set_qwen2_vl_fields(config, name, tokenizer)
        return PublishedModel(config=config, image_token_id=config["image_token_id"])
    config["auto_map"] = AUTO_MAPS[config["model_type"]]
    if name in TEACHERS:
        config["vision_config"]["hidden_size"] = TEACHER_INTERNVIT_WIDTH
    token = "<|vision_pad|>" if config["model_type"] == "NVLM_D" else "<IMG_CONTEXT>"
    return PublishedModel(config=config, image_token_id=tokenizer.ids[token])


def _set_qwen2_vl_fields(config: Json, name: str, tokenizer: PublishedTokenizer) -> None:
    for field, token in {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }.items():
        config[field] = tokenizer.ids[token]
    half = config["hidden_size"] // config["num_attention_heads"] // 2
    config["rope_scaling"]["mrope_section"] = [half - half // 3 - half // 2, half // 3, half // 2]
    vision = config["vision_config"]
    vision["out_hidden_size" if "out_hidden_size" in vision else "hidden_size"] = config["hidden_size"]
    if name in TEACHERS:
        vision["embed_dim"] = TEACHER_QWEN2_VL_VISION_WIDTH


def _qwen2_vl_image_processor() -> Qwen2VLImageProcessor:
    """Patches of 4 x 4 pixels, merged 2 x 2: at most 12 image tokens an image."""
    return Qwen2VLImageProcessor(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 4 * 64, "longest_edge": 12 * 64},
    )


def qwen2_vl_tokenizer() -> PublishedTokenizer:
    bpe = _byte_level_bpe(QWEN2_VL_TEXT, QWEN2_VL_TOKENS, num_merges=45)
    config = QWEN2_TOKENIZER_CONFIG | {"tokenizer_class": "PreTrainedTokenizerFast"}
    files = {"tokenizer.json": bpe.to_str().encode()}
    return _published(bpe, QWEN2_VL_TOKENS, files=files, config=config)


def qwen2_tokenizer() -> PublishedTokenizer:
    """In Qwen's own files, without a `tokenizer.json`."""
    tokens = (*QWEN2_TOKENS, *INTERNVL_TOKENS)
    bpe = _byte_level_bpe(QWEN2_TEXT, tokens, num_merges=56)
    model = json.loads(bpe.to_str())["model"]
    ids = {token: bpe.token_to_id(token) for token in tokens}
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]) + "\n"
    named = {role: QWEN2_TOKENIZER_CONFIG[role] for role in ("eos_token", "pad_token")}
    files = {
        "vocab.json": _as_json(model["vocab"]),
        "merges.txt": merges.encode(),
        "added_tokens.json": _as_json(ids),
        "special_tokens_map.json": _as_json(named | {"additional_special_tokens": list(tokens[1:])}),
    }
    return _published(bpe, tokens, files=files, config=QWEN2_TOKENIZER_CONFIG)


def nvlm_d_tokenizer() -> PublishedTokenizer:
    bpe = _byte_level_bpe(NVLM_D_TEXT, QWEN2_VL_TOKENS, num_merges=33)
    files = {"tokenizer.json": bpe.to_str().encode()}
    return _published(bpe, QWEN2_VL_TOKENS, files=files, config=QWEN2_TOKENIZER_CONFIG)


def llama3_tokenizer() -> PublishedTokenizer:
    """A tokenizer that itself puts `<|begin_of_text|>` before a text."""
    bpe = _byte_level_bpe(LLAMA3_TEXT, LLAMA3_TOKENS, num_merges=64)
    bos, eos, pad = "<|begin_of_text|>", "<|im_end|>", "<|end_of_text|>"
    first = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bpe.token_to_id(bos))]
    )
    bpe.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), first])
    named = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | named
    files = {"tokenizer.json": bpe.to_str().encode()}
    return _published(bpe, LLAMA3_TOKENS, files=files, config=config)


def internlm2_tokenizer() -> PublishedTokenizer:
    """A sentencepiece model; chat tokens have the ids of reserved pieces, image tokens follow behind."""
    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(INTERNLM2_TEXT * 5),
        model_writer=written,
        model_type="bpe",
        vocab_size=340,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=list(INTERNLM2_RESERVED),
        num_threads=1,
        minloglevel=2,
    )
    pieces = SentencePieceProcessor(model_proto=written.getvalue())
    ids = {token: pieces.piece_to_id(token) for token in ("<unk>", "<s>", "</s>")}
    ids |= {token: pieces.piece_to_id(piece) for piece, token in INTERNLM2_SHADOWS.items()}
    ids |= {token: len(pieces) + place for place, token in enumerate(INTERNVL_TOKENS)}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": _added_tokens_decoder(ids),
        "additional_special_tokens": [token for token in ids if token not in ("<unk>", "<s>", "</s>")],
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": 8192,
        "pad_token": "</s>",
        "tokenizer_class": "InternLM2Tokenizer",
        "unk_token": "<unk>",
    }
    return PublishedTokenizer(
        files={"tokenizer.model": written.getvalue(), "tokenizer_config.json": _as_json(config)},
        ids=ids,
        num_tokens=len(pieces) + len(INTERNVL_TOKENS),
        bos="<s>",
        eos="</s>",
        pad="</s>",
    )


TOKENIZERS = {
    "Qwen2-VL-72B": qwen2_vl_tokenizer,
    "InternVL2.5-78B": qwen2_tokenizer,
    "InternVL2-76B": llama3_tokenizer,
    "NVLM-D-72B": nvlm_d_tokenizer,
    "Qwen2-VL-2B": qwen2_vl_tokenizer,
    "Qwen2-VL-7B": qwen2_vl_tokenizer,
    "InternVL2.5-1B": qwen2_tokenizer,
    "InternVL2.5-2B": internlm2_tokenizer,
    "InternVL2.5-4B": qwen2_tokenizer,
    "InternVL2.5-8B": internlm2_tokenizer,
    "Qwen2.5-VL-7B": qwen2_vl_tokenizer,
    "InternVL3-8B": qwen2_tokenizer,
}


def _byte_level_bpe(text: Sequence[str], special_tokens: Sequence[str], *, num_merges: int) -> Tokenizer:
    """Train a byte-level BPE on a few sentences; special tokens follow the ordinary ones."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + num_merges, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(text, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return bpe


def _published(
    bpe: Tokenizer, tokens: Sequence[str], *, files: Mapping[str, bytes], config: Json
) -> PublishedTokenizer:
    ids = {token: bpe.token_to_id(token) for token in tokens}
    shared = {
        "added_tokens_decoder": _added_tokens_decoder(ids),
        "additional_special_tokens": list(tokens[1:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "split_special_tokens": False,
    }
    return PublishedTokenizer(
        files={**files, "tokenizer_config.json": _as_json(shared | config)},
        ids=ids,
        num_tokens=bpe.get_vocab_size(),
        bos=config.get("bos_token") or "<|endoftext|>",
        eos=config["eos_token"],
        pad=config["pad_token"],
    )


def _added_tokens_decoder(ids: Mapping[str, int]) -> dict[str, Json]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(number): {"content": token} | flags for token, number in ids.items()}


def _as_json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()
