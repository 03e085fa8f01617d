"""Tests mirror the package; `tests.helpers` holds what they share."""
