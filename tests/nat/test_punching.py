"""The punch matrix: which pairs of networks get a direct path, with real NATs and real sockets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.nat.conftest import Sites, sites_of
from tests.nat.kinds import (
    BLOCKED,
    DOUBLE,
    KINDS,
    MASQ,
    MASQ_ACCEPT,
    MASQ_REJECT,
    OPEN,
    SYMMETRIC,
    Kind,
    Outcome,
    outcome,
)
from tests.nat.lab import Lab
from tests.nat.lab import lab as made_lab
from tests.nat.namespaces import NotHere
from tests.nat.sockets import punch
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.io, pytest.mark.slow]

FAR = 0.02
"""One-way delay of the second lab in seconds."""

IN_VAIN = 1.5
"""Seconds for an attempt that finds no path. A path is found in a tenth of that."""

PAIRS = list(itertools.product([kind for kind in KINDS if kind is not BLOCKED], repeat=2))
RACES = [pair for pair in PAIRS if outcome(*pair) is Outcome.RACE]


@pytest.mark.parametrize(("dialer", "listener"), PAIRS, ids=str)
async def test_punching_over_ipv4(lab: Lab, sites: Sites, dialer: Kind, listener: Kind) -> None:
    expected = outcome(dialer, listener)
    patience = PATIENCE if expected is Outcome.DIRECT else IN_VAIN
    punched = await punch(lab, sites(dialer, 0), sites(listener, 1), patience=patience)
    if expected is not Outcome.RACE:
        assert punched.is_direct is (expected is Outcome.DIRECT)


@pytest.mark.parametrize("kind", [OPEN, MASQ], ids=str)
async def test_a_network_without_udp_stays_relayed(lab: Lab, sites: Sites, kind: Kind) -> None:
    punched = await punch(lab, sites(BLOCKED, 0), sites(kind, 1), patience=IN_VAIN)
    assert punched.addresses == (None, None)


@pytest.mark.parametrize(
    ("dialer", "listener"), list(itertools.product([OPEN, MASQ, SYMMETRIC], repeat=2)), ids=str
)
async def test_punching_over_ipv6(lab: Lab, sites: Sites, dialer: Kind, listener: Kind) -> None:
    """Without a NAT, the firewalls accept what arrives from a pinged address."""
    one, other = sites(dialer, 0), sites(listener, 1)
    punched = await punch(lab, one, other, patience=PATIENCE, is_v6=True)
    assert punched.addresses == ((other.inside_v6, 4433), (one.inside_v6, 4433))


async def test_two_nodes_of_one_network_use_their_private_addresses(lab: Lab) -> None:
    home = lab.site(SYMMETRIC, nodes=2)
    punched = await punch(lab, home, home, patience=PATIENCE)
    assert punched.addresses == (("192.168.1.6", 4433), ("192.168.1.5", 4433))


async def test_two_homes_of_one_carrier_without_hairpinning_stay_relayed(lab: Lab) -> None:
    one, other = lab.sites_of_one_carrier(DOUBLE)
    punched = await punch(lab, one, other, patience=IN_VAIN)
    assert punched.addresses == (None, None)


# -- with a delay ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def far_lab() -> Iterator[Lab]:
    try:
        with made_lab(FAR) as found:
            yield found
    except NotHere as why:
        pytest.skip(f"no NATs on this machine: {why}")


@pytest.fixture(scope="module")
def far_sites(far_lab: Lab) -> Sites:
    return sites_of(far_lab)


@pytest.mark.parametrize(
    ("dialer", "listener"),
    [*RACES, (MASQ, MASQ), (MASQ_REJECT, MASQ_REJECT), (DOUBLE, DOUBLE)],
    ids=str,
)
async def test_both_start_within_the_one_way_delay(
    far_lab: Lab, far_sites: Sites, dialer: Kind, listener: Kind
) -> None:
    """The pairs for which it matters that no ping arrives before the first one has left."""
    punched = await punch(far_lab, far_sites(dialer, 0), far_sites(listener, 1), patience=PATIENCE)
    assert punched.is_direct


def test_the_pairs_where_the_start_matters() -> None:
    assert (MASQ_ACCEPT, MASQ_ACCEPT) in RACES
    assert (MASQ, MASQ_ACCEPT) in RACES
    assert (OPEN, MASQ_ACCEPT) not in RACES
