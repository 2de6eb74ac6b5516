"""The carriers, which transfer packets between nodes: TCP, TLS over TCP, and QUIC.

`base` defines the interface, `epmd` the port mapper, and `trust` the verification of certificates.
"""
