"""Which addresses are not unique, and whether a node was observed at another one."""

from __future__ import annotations

import pytest

from quicdist.carriers.private_addresses import Scope, is_seen_elsewhere, scope_of


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("10.255.255.255", Scope.PRIVATE),
        ("172.16.0.1", Scope.PRIVATE),
        ("172.32.0.1", None),
        ("192.168.1.5", Scope.PRIVATE),
        ("::ffff:192.168.1.5", Scope.PRIVATE),
        ("100.64.0.1", Scope.SHARED),
        ("100.128.0.1", None),
        ("169.254.7.7", Scope.LINK_LOCAL),
        ("fe80::1%eth0", Scope.LINK_LOCAL),
        ("fd12::1", Scope.UNIQUE_LOCAL),
        ("127.0.0.1", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("localhost", Scope.LOOPBACK),
        ("203.0.113.10", None),
        ("2001:db8::1", None),
        ("host1", None),
        ("", None),
        ("999.1.1.1", None),
    ],
)
def test_the_scope_of_an_address(host: str, scope: Scope | None) -> None:
    assert scope_of(host) is scope


@pytest.mark.parametrize(
    ("node", "observed", "is_elsewhere"),
    [
        ("4433@192.168.1.5", "203.0.113.21", True),
        ("4433@192.168.1.5", "192.168.1.1", True),
        ("4433@192.168.1.5", "192.168.1.5", False),
        ("4433@192.168.1.5", "::ffff:192.168.1.5", False),
        ("4433@fd00::5", "fd00:0::5", False),
        ("4433@127.0.0.1", "127.0.0.2", False),
        ("4433@127.0.0.1", "::1", False),
        ("4433@localhost", "10.0.0.7", True),
        ("4433@203.0.113.10", "203.0.113.11", False),  # the name is unique
        ("py@host1", "10.0.0.7", False),
        ("4433@192.168.1.5", "", False),
    ],
)
def test_a_private_name_seen_at_another_address(
    node: str, observed: str, is_elsewhere: bool
) -> None:
    assert is_seen_elsewhere(node, observed) is is_elsewhere
