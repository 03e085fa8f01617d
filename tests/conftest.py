"""Fixtures for all tests: tiny checkpoints and data made once a session."""

import os

# Ranks share the cores: one thread each. Set before torch is imported for the first time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
