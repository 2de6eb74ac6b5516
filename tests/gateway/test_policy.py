"""The rules that apply to a peer, and the format of a policy file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quicdist.gateway import Mode, PeerRules, Pids, Policy, PolicyError, parse_policy, read_policy

FULL = """
mode = "log"

[[peers]]
nodes = ["ops@10.0.0.1"]
names = ["stats_*", "logger"]
calls = ["*"]
ping = false
monitors = false
links = true
exits = true
group_leaders = true
system_messages = true
funs = true
new_atoms = 5
pids = "any"

[[peers]]
nodes = ["*@10.0.0.*", "4433@*"]
names = ["counter"]
calls = ["calc:*", "erlang:memory"]
"""


def test_a_file_says_all_that_the_settings_do(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(FULL)
    assert read_policy(file) == Policy(
        (
            PeerRules(
                nodes=("ops@10.0.0.1",),
                names=("stats_*", "logger"),
                calls=("*",),
                ping=False,
                monitors=False,
                links=True,
                exits=True,
                group_leaders=True,
                system_messages=True,
                funs=True,
                new_atoms=5,
                pids=Pids.ANY,
            ),
            PeerRules(
                nodes=("*@10.0.0.*", "4433@*"),
                names=("counter",),
                calls=("calc:*", "erlang:memory"),
            ),
        ),
        Mode.LOG,
    )


def test_the_first_entry_that_fits_counts() -> None:
    policy = parse_policy(FULL)
    assert policy.rules_for("ops@10.0.0.1") is policy.peers[0]
    assert policy.rules_for("ops@10.0.0.2") is policy.peers[1]
    assert policy.rules_for("4433@elsewhere") is policy.peers[1]
    assert policy.rules_for("OPS@10.0.1.2") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[peers]\n", "line 1"),
        ("[[peers]]\nnodes =", "line 2, the end"),
        ("", r"expected at least one \[\[peers\]\] table"),
        ("peers = 1", r"expected at least one \[\[peers\]\] table"),
        ('[[peers]]\nnames = ["a"]', r"peers\[1\].nodes: missing"),
        ("[[peers]]\nnodes = []", r"peers\[1\].nodes: missing"),
        ('[[peers]]\nnodes = ["a"]', r"peers\[1\].nodes: invalid pattern 'a'"),
        (
            '[[peers]]\nnodes = ["*"]\nnmaes = []',
            r"peers\[1\].nmaes: unknown key; expected one of nodes, names",
        ),
        ('mood = "log"', "mood: unknown key; expected one of mode, peers"),
        (
            'mode = "loud"\n[[peers]]\nnodes = ["*"]',
            'mode: expected "refuse" or "log", got \'loud\'',
        ),
        ('[[peers]]\nnodes = ["*"]\nnames = "a"', r"peers\[1\].names: expected a list of strings"),
        ('[[peers]]\nnodes = ["*"]\nnames = [1]', r"peers\[1\].names: expected a list of strings"),
        (
            '[[peers]]\nnodes = ["*"]\nnames = ["rex"]',
            r"peers\[1\].names: 'rex' is governed by `calls`",
        ),
        (
            '[[peers]]\nnodes = ["*"]\n[[peers]]\nnodes = ["*"]\ncalls = ["calc"]',
            r"peers\[2\].calls: invalid pattern 'calc': expected module:function",
        ),
        ('[[peers]]\nnodes = ["*"]\ncalls = ["a:b/1"]', "expected module:function"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["*"]', "'[*]' could match processes of OTP"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["Elixir.*"]', "could match processes of OTP"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["st*"]', "could match processes of OTP"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["?ounter"]', "expected a name"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["*_sup"]', "expected a name"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["standard_*"]', "matches standard_error"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["ssh*"]', "matches ssh_"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["cover*"]', "matches cover_server"),
        ('[[peers]]\nnodes = ["*"]\nnames = ["Elixir.Log*"]', "matches Elixir.Logger"),
        ('[[peers]]\nnodes = ["*"]\nnew_atoms = -1', "expected a non-negative integer"),
        ('[[peers]]\nnodes = ["*"]\nnew_atoms = true', "expected a non-negative integer"),
        ('[[peers]]\nnodes = ["*"]\nlinks = 1', r"peers\[1\].links: expected true or false"),
        (
            '[[peers]]\nnodes = ["*"]\npids = "all"',
            r'pids: expected "callers" or "partners" or "any"',
        ),
        (
            '[[peers]]\nnodes = ["*"]\npids = []',
            r'pids: expected "callers" or "partners" or "any"',
        ),
    ],
)
def test_mistakes_are_named_by_line_or_key(text: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint) as caught:
        parse_policy(text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere.toml cannot be read: No such file"):
        read_policy(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    with pytest.raises(PolicyError, match=r"binary.toml is not UTF-8"):
        read_policy(tmp_path / "binary.toml")
    (tmp_path / "deep.toml").write_text("mode = " + "[" * 5000)
    with pytest.raises(PolicyError, match=r"deep.toml: .* nested too deeply"):
        read_policy(tmp_path / "deep.toml")
    (tmp_path / "digits.toml").write_text("mode = " + "9" * 5000)
    with pytest.raises(PolicyError, match=r"digits.toml: "):
        read_policy(tmp_path / "digits.toml")
    (tmp_path / "wrong.toml").write_text("[[peers]]")
    with pytest.raises(PolicyError, match=r"wrong.toml: peers\[1\].nodes"):
        read_policy(tmp_path / "wrong.toml")


def test_the_guide_s_file_is_one() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    text = guide.partition("```toml\n")[2].partition("```")[0]
    (rules,) = parse_policy(text).peers
    assert rules.fits("4433@10.0.0.9")
    assert rules.may_send_to("counter")
    assert rules.may_call("calc", "add")


@pytest.mark.parametrize(
    ("pattern", "function"),
    [
        ("*", "os:cmd"),
        ("*:*", "os:cmd"),
        ("**", "os:cmd"),
        ("?*:??*", "os:cmd"),
        ("[a-z]*:*", "os:cmd"),
        ("erlang:*", "erlang:apply"),
        ("*:eval*", "file:eval"),
        ("rpc:call", "rpc:call"),
    ],
)
def test_calls_that_open_a_shell_are_recognized(pattern: str, function: str) -> None:
    assert PeerRules(nodes=("*",), calls=("calc:*", pattern)).shells() == {pattern: function}


def test_other_calls_open_none() -> None:
    calls = ("calc:*", "*:add", "erlang:memory", "lists:*")
    assert PeerRules(nodes=("*",), calls=calls).shells() == {}


def test_no_pattern_matches_the_processes_of_the_otp_application() -> None:
    source = (Path(__file__).parents[2] / "beam" / "src" / "quicdist.app.src").read_text()
    registered = re.search(r"\{registered, \[(.*?)\]\}", source)
    assert registered is not None
    for name in registered[1].split(","):
        with pytest.raises(ValueError, match=f"matches {name.strip()} of OTP"):
            PeerRules(nodes=("*",), names=(f"{name.strip()[:-1]}*",))
