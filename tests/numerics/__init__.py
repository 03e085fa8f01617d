"""Losses and gradients of distributed runs against the naive single-process reference."""
