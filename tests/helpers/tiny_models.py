"""Writes tiny Hugging Face checkpoint folders with random weights, of the true classes of both families.

Weights are large (not the 0.02 of a fresh model), norms and biases are away from 1 and 0, and all sizes
differ from each other, so that a transposed, swapped or forgotten tensor changes the result.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

TinyModelKind = Literal["internvl_qwen2", "internvl_llama", "qwen2_vl", "qwen2_vl_tied", "qwen2_5_vl"]

WEIGHT_STD = 0.2
NORM_STD = 0.1
BIAS_STD = 0.1

INTERNVL_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
QWEN2_VL_SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

INTERNVL_TOKENIZER_TEXT = (
    "Is there a circle in the image? yes, it is a blue circle.",
    "What color is the triangle? The triangle is yellow.",
    "Does the image contain a rectangle? no, there is no rectangle in the image.",
    "user assistant system",
)
QWEN2_VL_TOKENIZER_TEXT = (
    "How many shapes do you see? I see one small shape.",
    "What shape is shown here? a red rectangle",
    "You are a helpful assistant.",
    "user assistant system",
)

INTERNVL_CHAT_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['content'] is string %}{{ message['content'] }}\
{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}\
{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}\
{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

QWEN2_VL_CHAT_TEMPLATE = """\
{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['content'] is string %}{{ message['content'] }}\
{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}\
{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}\
{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def make_tiny_model(
    folder: Path, kind: TinyModelKind, seed: int, *, shares_tokenizer: bool = False, **sizes: int
) -> Path:
    """Write a checkpoint folder: weights, config, tokenizer, image processor, chat template. Return it.

    `sizes` overrides fields of the text config, for example `num_hidden_layers=3` or `hidden_size=64`. With
    `shares_tokenizer` the tokenizer is one for both families, of 309 tokens; `vocab_size` must hold them.
    """
    if kind.startswith("internvl"):
        tokenizer = _train_tokenizer(INTERNVL_TOKENIZER_TEXT, INTERNVL_SPECIAL_TOKENS, vocab_size=330)
        tokenizer = shared_tokenizer() if shares_tokenizer else tokenizer
        tokenizer.chat_template = INTERNVL_CHAT_TEMPLATE
        model = _internvl_model(kind, tokenizer, sizes)
        _internvl_image_processor().save_pretrained(folder)
    else:
        tokenizer = _train_tokenizer(QWEN2_VL_TOKENIZER_TEXT, QWEN2_VL_SPECIAL_TOKENS, vocab_size=301)
        tokenizer = shared_tokenizer() if shares_tokenizer else tokenizer
        tokenizer.chat_template = QWEN2_VL_CHAT_TEMPLATE
        model = _qwen2_vl_model(kind, tokenizer, sizes)
        _qwen2_vl_image_processor().save_pretrained(folder)
    randomize_weights(model, seed=seed)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shared_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with the special tokens of both families."""
    special_tokens = tuple(dict.fromkeys(INTERNVL_SPECIAL_TOKENS + QWEN2_VL_SPECIAL_TOKENS))
    return _train_tokenizer(INTERNVL_TOKENIZER_TEXT + QWEN2_VL_TOKENIZER_TEXT, special_tokens, vocab_size=309)


def randomize_weights(model: torch.nn.Module, *, seed: int) -> None:
    """Fill every parameter in place: matrices N(0, 0.2), norm weights N(1, 0.1), other vectors N(0, 0.1)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.dim() == 1 and not name.endswith("bias")
            if is_scale:
                parameter.copy_(1.0 + NORM_STD * noise)
            else:
                parameter.copy_((WEIGHT_STD if parameter.dim() > 1 else BIAS_STD) * noise)


def _train_tokenizer(
    text: tuple[str, ...], special_tokens: tuple[str, ...], *, vocab_size: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on a few sentences; special tokens follow the ordinary ones."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special_tokens), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special_tokens),
        clean_up_tokenization_spaces=False,
    )


def _text_sizes(
    defaults: dict[str, int], sizes: dict[str, int], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    ids = {
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return {"max_position_embeddings": 512, **defaults, **ids, **sizes}


def _internvl_model(kind: str, tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int]) -> PreTrainedModel:
    defaults = {
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # Odd for Llama, like the 128265 rows of InternVL2-76B: tp must not rely on an even vocabulary.
        "vocab_size": 343 if kind == "internvl_llama" else 342,
    }
    text_fields = _text_sizes(defaults, sizes, tokenizer)
    text_config: LlamaConfig | Qwen2Config
    if kind == "internvl_llama":
        text_config = LlamaConfig(
            **text_fields, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}
        )
    else:
        text_config = Qwen2Config(
            **text_fields, rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
        )
    vision_config = InternVLVisionConfig(
        hidden_size=24,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=3,
        attention_bias=True,
        image_size=[24, 24],
        patch_size=[6, 6],
    )
    # Without the top-level flag InternVL ties its head, whatever the text config says.
    config = InternVLConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config)


def _qwen2_vl_model(kind: str, tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int]) -> PreTrainedModel:
    defaults = {
        "hidden_size": 48,
        "intermediate_size": 88,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 306,
    }
    text_fields = _text_sizes(defaults, sizes, tokenizer)
    half_head_dim = text_fields["hidden_size"] // text_fields["num_attention_heads"] // 2
    height_share, width_share = half_head_dim // 3, half_head_dim // 2
    mrope_section = [half_head_dim - height_share - width_share, height_share, width_share]
    text_config = {
        "model_type": "qwen2_5_vl_text" if kind == "qwen2_5_vl" else "qwen2_vl_text",
        **text_fields,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "mrope_section": mrope_section, "rope_theta": 1e6},
    }
    vision_config: dict[str, Any] = {
        "depth": 2,
        "embed_dim": 16,
        "num_heads": 2,
        "mlp_ratio": 3,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "hidden_size": text_fields["hidden_size"],
    }
    config_class, model_class = Qwen2VLConfig, Qwen2VLForConditionalGeneration
    if kind == "qwen2_5_vl":
        config_class, model_class = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
        vision_config |= {"hidden_size": 16, "out_hidden_size": text_fields["hidden_size"]}
        vision_config |= {"intermediate_size": 36, "window_size": 16, "fullatt_block_indexes": [1]}
        del vision_config["embed_dim"], vision_config["mlp_ratio"]
    config = config_class(
        text_config=text_config,
        vision_config=vision_config,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=kind == "qwen2_vl_tied",
    )
    return model_class(config)


def _internvl_image_processor() -> GotOcr2ImageProcessor:
    """Tiles of 24 x 24 pixels, 4 image tokens each, at most 3 and a thumbnail."""
    return GotOcr2ImageProcessor(
        size={"height": 24, "width": 24},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        crop_to_patches=True,
        min_patches=1,
        max_patches=3,
    )


def _qwen2_vl_image_processor() -> Qwen2VLImageProcessor:
    """Patches of 4 x 4 pixels, merged 2 x 2: at most 12 image tokens an image."""
    return Qwen2VLImageProcessor(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 4 * 64, "longest_edge": 12 * 64},
    )
