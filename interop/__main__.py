"""The command: `python -m interop --help`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from interop.carriers import Carrier, Dialer, all_carriers
from interop.harness import Options, run
from interop.outcome import is_failure, table
from interop.scenarios import SCENARIOS

_EPILOG = """\
Foreign carriers take part where their compiled folders are given: QUICDIST_PEER_QUIC_DIST,
QUICDIST_PEER_ERLANG_QUIC and QUICDIST_PEER_MACULA_DIST, each path[:path...] to ebin folders or to
folders that hold them. QUICDIST_INTEROP_ERL is another erl than the one on the PATH, and
QUICDIST_PEER_..._ERL one for that carrier alone. Nothing is fetched and nothing is built.

Exit code 0 when nothing failed that is not a known limit of a peer, 1 otherwise, 2 for a command
line that is wrong."""


def main() -> int:
    """Runs it and returns the exit code."""
    parser = _parser()
    given = parser.parse_args()
    carriers = _chosen(all_carriers(), given.carrier, parser)
    if given.list:
        for carrier in carriers:
            print(f"{carrier.key}: {carrier.absent and 'n/a: '}{carrier.absent or carrier.about}")
        print(*(f"  {scenario.title}" for scenario in SCENARIOS), sep="\n")
        return 0
    scenarios = [
        scenario
        for scenario in SCENARIOS
        if not given.scenario or any(part in scenario.title for part in given.scenario)
    ]
    if not scenarios:
        parser.error(f"no scenario has any of {given.scenario} in its title; see --list")
    level = (logging.CRITICAL, logging.INFO, logging.DEBUG)[min(given.verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options = Options(
        scenarios=scenarios,
        dialers=[Dialer[given.dialer.upper()]] if given.dialer else list(Dialer),
        connects=given.connects,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    columns = asyncio.run(run(carriers, options))
    print(table([scenario.title for scenario in scenarios], columns))
    return int(is_failure(columns))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m interop",
        description="Plays one list of scenarios with every kind of peer that can be had here.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--carrier", action="append", metavar="NAME", help="this one only; may be repeated"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="TEXT",
        help="only those with TEXT in their title; may be repeated",
    )
    parser.add_argument(
        "--dialer", choices=[one.name.lower() for one in Dialer], help="by default both in turn"
    )
    parser.add_argument(
        "--connects", type=int, default=10, metavar="N", help="cold connects, 10 by default"
    )
    parser.add_argument("--list", action="store_true", help="show peers and scenarios, and end")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="twice for more")
    return parser


def _chosen(
    carriers: list[Carrier], names: list[str] | None, parser: argparse.ArgumentParser
) -> list[Carrier]:
    if not names:
        return carriers
    known = {carrier.key: carrier for carrier in carriers}
    for name in names:
        if name not in known:
            parser.error(f"no carrier {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
