"""Convert teacher checkpoints between Hugging Face and Megatron-core layouts."""
