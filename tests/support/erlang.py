"""A real Erlang process that evaluates Erlang source and answers in bytes."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.closing import Closing

# Uses packets with a 4-byte length on two separate pipes, because OTP prints warnings on standard
# output before its logger starts (since OTP 27 about a missing EPMD). A request is the length of
# the source, the source, and bytes bound to the variable In; a reply is a tag byte and bytes.
# It runs in a spawned process, so that init can finish booting: when init itself waited here, OTP
# 25.2.3 of Debian 12 crashed with SIGSEGV in its garbage collection in two of three runs, depending
# on the length of the current directory's name.
_SERVER = r"""
spawn(fun() ->
Port = open_port({fd, READ, WRITE}, [{packet, 4}, binary]),
Eval = fun(Source, In) ->
    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Source)),
    {ok, Exprs} = erl_parse:parse_exprs(Tokens),
    {value, Value, _} = erl_eval:exprs(Exprs, [{'In', In}]),
    iolist_to_binary(Value)
end,
Loop = fun Loop() ->
    receive
        {Port, {data, <<Length:32, Source:Length/binary, In/binary>>}} ->
            Reply = try Eval(Source, In) of Value -> [1, Value]
                    catch Class:Reason:Stack ->
                        Text = io_lib:format("~p:~tp ~tp", [Class, Reason, Stack]),
                        [0, unicode:characters_to_binary(Text)]
                    end,
            port_command(Port, Reply),
            Loop();
        {'EXIT', Port, _} -> halt(0, [{flush, false}]);
        _ -> Loop()
    end
end,
process_flag(trap_exit, true),
Loop()
end).
"""

_STDERR = 2

_LOG_TO_STDERR = (
    "-kernel",
    "logger",
    "[{handler,default,logger_std_h,#{config=>#{type=>standard_error}}}]",
)


ERL = os.environ.get("QUICDIST_TEST_ERL", "erl")
"""The `erl` to use; the tests can run with another OTP release."""


def erlang_available() -> bool:
    """Whether a real Erlang is on the PATH."""
    return shutil.which(ERL) is not None


def why_no_erlang() -> str:
    """Returns the reason for which tests are skipped without Erlang."""
    reason = os.environ.get("QUICDIST_TEST_NO_ERL")
    return reason or "no Erlang on the PATH: sudo apt-get install erlang-base"


@functools.cache
def elixir_libraries() -> Path | None:
    """Returns the folder of Elixir's applications, or None without Elixir on the PATH."""
    if shutil.which("elixir") is None:
        return None
    where = "IO.write(Path.dirname(:code.lib_dir(:elixir)))"
    found = subprocess.run(["elixir", "-e", where], capture_output=True, text=True, check=True)
    return Path(found.stdout)


NO_ELIXIR = "no Elixir: sudo apt-get install elixir"


class ErlangError(Exception):
    """The evaluated source raised an exception."""


class Erlang(Closing):
    """A running Erlang that evaluates source. It is a distributed node only if `args` say so."""

    def __init__(self, *args: str, env: Mapping[str, str] | None = None) -> None:
        """`env` extends the environment of this process."""
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._requests = os.fdopen(ours_out, "wb")
        self._replies = os.fdopen(ours_in, "rb")
        server = _SERVER.replace("READ", str(theirs_in)).replace("WRITE", str(theirs_out))
        try:
            self._process = subprocess.Popen(
                [ERL, "-noshell", "-noinput", *_LOG_TO_STDERR, *args, "-eval", server],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=(theirs_in, theirs_out),
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    @property
    def os_pid(self) -> int:
        """The process id of the operating system."""
        return self._process.pid

    def eval(self, source: str, data: bytes = b"") -> bytes:
        """Evaluates `source` (ends in a full stop) with `In` bound to `data`.

        The value must be iodata and comes back as bytes.
        """
        text = source.encode()
        self._write(struct.pack(">I", len(text)) + text + data)
        reply = self._read()
        if reply[0] != 1:
            raise ErlangError(reply[1:].decode(errors="replace"))
        return reply[1:]

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Stops it and waits until it has exited."""
        self._process.kill()
        self._process.wait()
        self._replies.close()
        with contextlib.suppress(BrokenPipeError):  # unread requests are lost
            self._requests.close()

    def _write(self, request: bytes) -> None:
        self._requests.write(struct.pack(">I", len(request)) + request)
        self._requests.flush()

    def _read(self) -> bytes:
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = self._replies.read(count)
        if len(data) != count:
            raise ErlangError("Erlang ended")
        return data
