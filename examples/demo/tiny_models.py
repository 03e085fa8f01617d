"""Defines the demo's two models: configurations, tokenizers and image processors, weights still random.

The teacher is an InternVL with a Qwen2 body and a byte-level BPE, the student a Qwen2-VL with a BPE of little
more than characters: other tokens, another vocabulary, other image tokens.
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEACHER_TOKENS = (*CHAT_TOKENS, "<img>", "</img>", "<IMG_CONTEXT>")
STUDENT_TOKENS = (*CHAT_TOKENS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

# The chat templates of the two families, for messages of text and images.
_TEMPLATE = """\
{%- for message in messages -%}\
SYSTEM\
{{- '<|im_start|>' + message['role'] + '\\n' -}}\
{%- if message['content'] is string -%}{{- message['content'] -}}\
{%- else -%}{%- for content in message['content'] -%}\
{%- if content['type'] == 'image' -%}{{- 'IMAGE' -}}\
{%- elif content['type'] == 'text' -%}{{- content['text'] -}}{%- endif -%}\
{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
_QWEN_SYSTEM = (
    "{%- if loop.first and message['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
)
TEACHER_TEMPLATE = _TEMPLATE.replace("SYSTEM", "").replace("IMAGE", "<IMG_CONTEXT>\\n")
STUDENT_TEMPLATE = _TEMPLATE.replace("SYSTEM", _QWEN_SYSTEM).replace(
    "IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"
)


def write_teacher(folder: Path, texts: Sequence[str]) -> None:
    """Write the teacher's folder: 0.7 M parameters, 64 px tiles, 16 image tokens."""
    tokenizer = _teacher_tokenizer(texts)
    vision = InternVLVisionConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        attention_bias=True,
        image_size=[64, 64],
        patch_size=[8, 8],
    )
    text = Qwen2Config(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        **_special_ids(tokenizer),
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    processor = GotOcr2ImageProcessor(
        size={"height": 64, "width": 64},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        crop_to_patches=True,
        min_patches=1,
        max_patches=4,
    )
    tokenizer.chat_template = TEACHER_TEMPLATE
    _write(folder, InternVLForConditionalGeneration(config), tokenizer, processor)


def write_student(folder: Path, texts: Sequence[str]) -> None:
    """Write the student's folder: 0.3 M parameters, images of 48 px, 9 image tokens."""
    tokenizer = _student_tokenizer(texts)
    text = {
        "model_type": "qwen2_vl_text",
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        **_special_ids(tokenizer),
    }
    vision = {
        "depth": 2,
        "embed_dim": 48,
        "num_heads": 4,
        "mlp_ratio": 3,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "hidden_size": 64,
    }
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    processor = Qwen2VLImageProcessor(
        patch_size=8,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 48 * 48, "longest_edge": 48 * 48},
    )
    tokenizer.chat_template = STUDENT_TEMPLATE
    _write(folder, Qwen2VLForConditionalGeneration(config), tokenizer, processor)


def _write(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, processor: object
) -> None:
    ids = _special_ids(tokenizer)
    model.generation_config = GenerationConfig(do_sample=False, **ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    first, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>"))
    return {"bos_token_id": first, "eos_token_id": end, "pad_token_id": first}


def _teacher_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 372 tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=366, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return _wrap(bpe, TEACHER_TOKENS)


def _student_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a BPE of printable ASCII characters and a few pairs."""
    bpe = Tokenizer(models.BPE())
    bpe.decoder = decoders.Fuse()
    alphabet = ["\n", *(chr(code) for code in range(32, 127))]
    trainer = trainers.BpeTrainer(vocab_size=112, initial_alphabet=alphabet, show_progress=False)
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", behavior="isolated")
    bpe.train_from_iterator(texts, trainer)
    return _wrap(bpe, STUDENT_TOKENS)


def _wrap(bpe: Tokenizer, special_tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special_tokens),
        clean_up_tokenization_spaces=False,
    )
