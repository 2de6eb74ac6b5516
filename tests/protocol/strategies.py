"""Hypothesis strategies for terms and control messages."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from quicdist.etf import Atom, Pid, Reference
from tests.protocol import forms as c

U32 = st.integers(0, 2**32 - 1)

atoms = st.builds(
    Atom, st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
) | st.sampled_from([Atom("ok"), Atom("a" * 255), Atom("ž" * 255), Atom("")])
"""Atoms that decode to Atom: `true` and `false` decode to bool."""
atoms = atoms.filter(lambda atom: atom not in ("true", "false"))

pids = st.builds(Pid, atoms, U32, U32, U32)
references = st.builds(Reference, atoms, st.lists(U32, min_size=1, max_size=5).map(tuple), U32)

_leaves: st.SearchStrategy[Any] = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=50)
    | st.booleans()
    | atoms
    | pids
    | references
)
terms: st.SearchStrategy[Any] = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(atoms, inner, max_size=3)
    ),
    max_leaves=10,
)

_procs = pids | atoms
_mfas = st.tuples(atoms, atoms, st.integers(0, 255))
_unlink_ids = st.integers(1, 2**64 - 1)
_opts = st.lists(terms, max_size=3)
_spawn_flags = st.integers(0, 2**27 - 1)

FIELDS: dict[type[c.Control], tuple[st.SearchStrategy[Any], ...]] = {
    c.Link: (pids, pids),
    c.Send: (pids,),
    c.Exit: (pids, pids, terms),
    c.Unlink: (pids, pids),
    c.RegSend: (pids, atoms),
    c.GroupLeader: (pids, pids),
    c.Exit2: (pids, pids, terms),
    c.SendTT: (pids, terms),
    c.ExitTT: (pids, pids, terms, terms),
    c.RegSendTT: (pids, atoms, terms),
    c.Exit2TT: (pids, pids, terms, terms),
    c.MonitorP: (pids, _procs, references),
    c.DemonitorP: (pids, _procs, references),
    c.MonitorPExit: (_procs, pids, references, terms),
    c.SendSender: (pids, pids),
    c.SendSenderTT: (pids, pids, terms),
    c.PayloadExit: (pids, pids),
    c.PayloadExitTT: (pids, pids, terms),
    c.PayloadExit2: (pids, pids),
    c.PayloadExit2TT: (pids, pids, terms),
    c.PayloadMonitorPExit: (_procs, pids, references),
    c.SpawnRequest: (references, pids, pids, _mfas, _opts),
    c.SpawnRequestTT: (references, pids, pids, _mfas, _opts, terms),
    c.SpawnReply: (references, pids, _spawn_flags, _procs),
    c.SpawnReplyTT: (references, pids, _spawn_flags, _procs, terms),
    c.AliasSend: (pids, references),
    c.AliasSendTT: (pids, references, terms),
    c.UnlinkId: (_unlink_ids, pids, pids),
    c.UnlinkIdAck: (_unlink_ids, pids, pids),
}
"""The fields of all control messages except NODE_LINK, which is not supported, and
ALTACT_SIG_SEND."""

_prio = st.sampled_from([0, c.ALTACT_PRIO])
_exit = st.sampled_from([0, c.ALTACT_EXIT])


def _altact(
    address: tuple[int, Any], bits: int, from_pid: Pid, token: tuple[Any, ...]
) -> c.AltactSigSend:
    flags = address[0] | bits | (c.ALTACT_TOKEN if token else 0)
    return c.AltactSigSend(flags, from_pid, address[1], *token)


altacts = st.builds(
    _altact,
    st.tuples(st.just(0), pids)
    | st.tuples(st.just(c.ALTACT_NAME), atoms)
    | st.tuples(st.just(c.ALTACT_ALIAS), references),
    st.builds(int.__or__, _prio, _exit),
    pids,
    st.just(()) | st.tuples(terms),
)

controls: st.SearchStrategy[c.Control] = st.one_of(
    altacts, *(st.builds(cls, *fields) for cls, fields in FIELDS.items())
)
