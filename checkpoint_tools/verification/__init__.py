"""Proofs that a family converts: gates L0 to L3 on models made here, L4 on a real checkpoint.

`gates` says what each gate is; `original` is what they compare with.
"""
