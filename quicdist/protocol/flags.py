"""The distribution flags: the capabilities that nodes exchange in the handshake.

Source: ERTS manual, Distribution Protocol, "Distribution Flags". Names are without the DFLAG_
prefix.
"""

from __future__ import annotations

from enum import IntFlag


class Flag(IntFlag):
    """A capability. Two nodes use the capabilities that both of them offer."""

    PUBLISHED = 1 << 0
    """The node is visible: it is in the global name space and in `nodes()`."""
    ATOM_CACHE = 1 << 1
    """Obsolete atom cache."""
    EXTENDED_REFERENCES = 1 << 2
    """References of several words. Mandatory."""
    DIST_MONITOR = 1 << 3
    """MONITOR_P, DEMONITOR_P, MONITOR_P_EXIT of processes."""
    FUN_TAGS = 1 << 4
    """Separate tags for funs. Mandatory."""
    DIST_MONITOR_NAME = 1 << 5
    """Monitors of registered names."""
    HIDDEN_ATOM_CACHE = 1 << 6
    """Obsolete atom cache of hidden nodes."""
    NEW_FUN_TAGS = 1 << 7
    """NEW_FUN_EXT. Mandatory."""
    EXTENDED_PIDS_PORTS = 1 << 8
    """Large pids and ports. Mandatory."""
    EXPORT_PTR_TAG = 1 << 9
    """EXPORT_EXT. Mandatory."""
    BIT_BINARIES = 1 << 10
    """BIT_BINARY_EXT. Mandatory."""
    NEW_FLOATS = 1 << 11
    """NEW_FLOAT_EXT. Mandatory."""
    UNICODE_IO = 1 << 12
    """Unicode in the io protocol."""
    DIST_HDR_ATOM_CACHE = 1 << 13
    """Distribution header with atom cache. Requires delivery of frames in order."""
    SMALL_ATOM_TAGS = 1 << 14
    """SMALL_ATOM_EXT."""
    UTF8_ATOMS = 1 << 16
    """ATOM_UTF8_EXT and SMALL_ATOM_UTF8_EXT. Mandatory."""
    MAP_TAG = 1 << 17
    """MAP_EXT. Mandatory."""
    BIG_CREATION = 1 << 18
    """NEW_PID_EXT, NEW_PORT_EXT, NEWER_REFERENCE_EXT. Mandatory."""
    SEND_SENDER = 1 << 19
    """SEND_SENDER instead of SEND."""
    BIG_SEQTRACE_LABELS = 1 << 20
    """Any term as a sequential trace label."""
    EXIT_PAYLOAD = 1 << 22
    """PAYLOAD_EXIT and related operations instead of reasons inside the control message."""
    FRAGMENTS = 1 << 23
    """Fragmentation of large messages. Implies the distribution header."""
    HANDSHAKE_23 = 1 << 24
    """Handshake version 6. Mandatory."""
    UNLINK_ID = 1 << 25
    """The link protocol with UNLINK_ID and its acknowledgement. Mandatory since OTP 26."""
    MANDATORY_25_DIGEST = 1 << 26
    """Stands for everything that OTP 25 made mandatory."""
    SPAWN = 1 << 32
    """SPAWN_REQUEST and SPAWN_REPLY."""
    NAME_ME = 1 << 33
    """A request, not a capability: the listener assigns the name of the dialer."""
    V4_NC = 1 << 34
    """64-bit ports, references of up to five words, full pids. Mandatory since OTP 26."""
    ALIAS = 1 << 35
    """ALIAS_SEND to a process alias."""
    LOCAL_EXT = 1 << 36
    """Terms that only the node that encoded them can decode. Internal to a node."""
    ALTACT_SIG = 1 << 37
    """ALTACT_SIG_SEND: priority and alias signals, since OTP 28."""
    NATIVE_RECORDS = 1 << 38
    """RECORD_EXT: native records, since OTP 29."""
    CHANNEL_BINDING = 1 << 56
    """A flag of quicdist that OTP does not define: cookie digests are bound to the TLS session.

    It is offered only on a connection that has an exporter value.
    """


MANDATORY_25: Flag = (
    Flag.EXTENDED_REFERENCES
    | Flag.FUN_TAGS
    | Flag.EXTENDED_PIDS_PORTS
    | Flag.NEW_FUN_TAGS
    | Flag.EXPORT_PTR_TAG
    | Flag.BIT_BINARIES
    | Flag.NEW_FLOATS
    | Flag.UTF8_ATOMS
    | Flag.MAP_TAG
    | Flag.BIG_CREATION
    | Flag.HANDSHAKE_23
)
"""The flags that OTP 25 requires and MANDATORY_25_DIGEST implies."""

MANDATORY: Flag = MANDATORY_25 | Flag.V4_NC | Flag.UNLINK_ID
"""The flags that a peer must offer, as OTP 26 and later require. OTP 24 already offers them."""

DEFAULT_FLAGS: Flag = (
    MANDATORY
    | Flag.MANDATORY_25_DIGEST
    | Flag.DIST_MONITOR
    | Flag.DIST_MONITOR_NAME
    | Flag.UNICODE_IO
    | Flag.DIST_HDR_ATOM_CACHE
    | Flag.SMALL_ATOM_TAGS
    | Flag.SEND_SENDER
    | Flag.BIG_SEQTRACE_LABELS
    | Flag.EXIT_PAYLOAD
    | Flag.FRAGMENTS
    | Flag.SPAWN
    | Flag.ALIAS
    | Flag.ALTACT_SIG
    | Flag.NATIVE_RECORDS
)
"""The flags that a hidden quicdist node with a static name offers."""

_KNOWN = 0
for _flag in Flag:
    _KNOWN |= _flag
KNOWN: int = int(_KNOWN)
"""All bits that have a name in Flag."""


def expand(offered: int) -> int:
    """The offered bits, with MANDATORY_25_DIGEST expanded to the flags it implies."""
    if offered & Flag.MANDATORY_25_DIGEST.value:
        return offered | MANDATORY_25.value
    return offered


def names(bits: int) -> list[str]:
    """The names of the flags in `bits`, lowest bit first. Unnamed bits are omitted."""
    return [str(flag.name) for flag in Flag if flag.value & bits]
