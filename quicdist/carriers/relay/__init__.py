"""Nodes behind NATs: relayed connections and direct paths."""
