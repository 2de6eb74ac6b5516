"""The command line: `python -m interop --help`."""

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
Third-party carriers are included if these variables name their compiled applications:
QUICDIST_PEER_QUIC_DIST, QUICDIST_PEER_ERLANG_QUIC and QUICDIST_PEER_MACULA_DIST, each a list
path[:path...] of ebin folders or of folders that contain them. QUICDIST_INTEROP_ERL selects another
erl than the one on the PATH, and QUICDIST_PEER_..._ERL selects the erl of one carrier. The harness
downloads and builds nothing.

Exit code: 0 if there are no failures except known limits of a peer, 1 otherwise, 2 for an invalid
command line."""


def main() -> int:
    """Runs the harness and returns the exit code."""
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
        parser.error(f"no scenario title contains any of {given.scenario}; see --list")
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
        description="Run one list of scenarios with every available kind of peer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--carrier", action="append", metavar="NAME", help="run this carrier only; repeatable"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="TEXT",
        help="run scenarios whose title contains TEXT; repeatable",
    )
    parser.add_argument(
        "--dialer",
        choices=[one.name.lower() for one in Dialer],
        help="side that dials (default: both in turn)",
    )
    parser.add_argument(
        "--connects", type=int, default=10, metavar="N", help="cold connects (default: 10)"
    )
    parser.add_argument("--list", action="store_true", help="list peers and scenarios and exit")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more; repeatable")
    return parser


def _chosen(
    carriers: list[Carrier], names: list[str] | None, parser: argparse.ArgumentParser
) -> list[Carrier]:
    if not names:
        return carriers
    known = {carrier.key: carrier for carrier in carriers}
    for name in names:
        if name not in known:
            parser.error(f"unknown carrier {name!r}; expected one of {', '.join(known)}")
    return [known[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
