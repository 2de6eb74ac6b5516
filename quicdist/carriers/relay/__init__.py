"""Relays for nodes behind NATs, and direct paths between such nodes.

A relay gives a node a UDP port of its own address and forwards datagrams between that port and the
node. It reads nothing of them: QUIC and TLS stay between the two nodes. Where the NATs allow it,
the nodes then find a direct path below QUIC.
"""
