"""The `genrecal` command: thin verbs over the rooms below.

A verb reads its arguments, calls one function and prints. Start with `main`.
"""
