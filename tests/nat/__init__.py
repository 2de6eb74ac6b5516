"""Tests with real NATs: network namespaces and nftables. Linux and root."""
