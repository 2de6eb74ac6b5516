"""Two stock BEAM nodes behind symmetric NATs, each with a gateway that uses the relay."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from quicdist.gateway import emit_module
from tests.nat.conftest import Sites
from tests.nat.kinds import SYMMETRIC
from tests.nat.lab import Lab
from tests.nat.processes import COOKIE, gateway, relay
from tests.support.erlang import ERL
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.erlang, pytest.mark.slow]

_TALK = r"""
Peer = list_to_atom(os:getenv("PEER")),
Until = fun Until(F) -> case F() of true -> ok; _ -> timer:sleep(50), Until(F) end end,
Until(fun() -> net_adm:ping(Peer) =:= pong end),
Peer = rpc:call(Peer, erlang, node, []),
Peer = erpc:call(Peer, erlang, node, []),
yes = global:register_name(thing, self()),
Until(fun() -> rpc:call(Peer, global, whereis_name, [thing]) =:= self() end),
{ok, _} = pg:start(pg), {ok, _} = rpc:call(Peer, pg, start, [pg]),
ok = pg:join(group, self()),
Until(fun() -> rpc:call(Peer, pg, get_members, [group]) =:= [self()] end),
Binary = crypto:strong_rand_bytes(64 bsl 20),
Digest = erlang:md5(Binary),
Digest = rpc:call(Peer, erlang, md5, [Binary]),
67108864 = byte_size(rpc:call(Peer, binary, copy, [<<0>>, 64 bsl 20])),
io:format("all is well~n"), halt().
"""


def test_ping_rpc_global_pg_and_a_large_binary(lab: Lab, sites: Sites, tmp_path: Path) -> None:
    emit_module(tmp_path, erl=ERL)
    spaces = [sites(SYMMETRIC, side).node for side in (0, 1)]
    states = [tmp_path / "one", tmp_path / "other"]
    with (
        relay(lab.core, tmp_path / "relay"),
        gateway(spaces[0], states[0], tmp_path) as one,
        gateway(spaces[1], states[1], tmp_path) as other,
    ):
        ups = [one.read(), other.read()]
        waiting = subprocess.Popen(
            [*spaces[1].command(_erl(ups[1])), "-eval", "receive stop -> ok end."],
            env={**os.environ, "HOME": str(states[1])},
        )
        try:
            done = subprocess.run(
                [*spaces[0].command(_erl(ups[0])), "-eval", _TALK],
                env={**os.environ, "HOME": str(states[0]), "PEER": ups[1]["gateway"]},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        finally:
            waiting.kill()
            waiting.wait()
    assert "all is well" in done.stdout, f"{done.stdout}{done.stderr}"


def _erl(up: dict[str, str]) -> list[str]:
    erl, *words = shlex.split(up["start"])
    return [ERL if erl == "erl" else erl, *words, "-setcookie", COOKIE, "-noshell"]
