"""The targets of `make fuzz`, with their seeds and with inputs from hypothesis."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import NAMES, load
from tests.support.examples import examples


@functools.cache
def seeds(name: str) -> list[bytes]:
    return list(load(name).seeds())


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_no_findings(name: str) -> None:
    check = load(name).check
    assert seeds(name)
    for seed in seeds(name):
        check(seed)


@pytest.mark.parametrize("name", NAMES)
def test_nor_is_what_lies_near_them(name: str) -> None:
    check = load(name).check

    @settings(max_examples=examples(100))
    @given(st.sampled_from(seeds(name)), st.data())
    def near(seed: bytes, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(seed)))
            cut = data.draw(st.integers(0, 4))
            seed = seed[:at] + data.draw(st.binary(max_size=4)) + seed[at + cut :]
        check(seed)

    near()


@pytest.mark.parametrize("name", NAMES)
@given(st.binary(max_size=200))
def test_nor_is_anything_else(name: str, data: bytes) -> None:
    load(name).check(data)
