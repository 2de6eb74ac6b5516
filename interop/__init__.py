"""Runs one list of scenarios between a Python node and every kind of peer that can be had here.

`python -m interop`, or `make interop`. See interop/README.md.
"""
