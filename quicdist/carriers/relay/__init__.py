"""Relays for nodes behind NATs: the relay server, and the relay client of a node.

A relay gives a node a UDP port of its own address and forwards datagrams between that port and the
node. It reads nothing of them: QUIC and TLS stay between the two nodes.
"""
