"""Runs one list of scenarios between a Python node and every available kind of peer.

`python -m interop`, or `make interop`. See interop/README.md.
"""
