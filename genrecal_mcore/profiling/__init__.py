"""Measures a run's own modules on the device at hand, for plans that then assume less.

Starts two processes for the link between ranks, and no run. Start with `profile`. Exports nothing: those
processes import this room, and need only `neighbours`.
"""
