"""GenRecal distillation of vision-language models on Megatron-core teachers and Hugging Face students."""

__version__ = "0.1.0"
