"""Streams: results that a function yields one by one, sent under flow control.

- `messages`: the messages of the protocol
- `window`: the credit of a producer
- `producer`: runs an exported generator and sends its items
- `consumer`: starts a remote generator and iterates over its items

docs/streams.md describes the protocol. Any BEAM process can take part with plain messages.
"""
