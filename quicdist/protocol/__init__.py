"""The Erlang distribution protocol, without I/O and clock.

Source: ERTS manual, Distribution Protocol.
"""
