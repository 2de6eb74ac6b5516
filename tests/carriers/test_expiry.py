"""A certificate that will expire soon is logged in advance."""

from __future__ import annotations

import datetime
import logging
import time
from pathlib import Path

import pytest

from quicdist import Identity, Node, Trust
from quicdist.carriers.trust import Credentials
from quicdist.carriers.trust.expiry import say_expiry
from quicdist.metrics.catalogue import METRICS

IDENTITY = Identity.ephemeral(["127.0.0.1"])


@pytest.mark.parametrize(
    ("left", "level", "said"),
    [
        ({"days": 31}, None, ""),
        ({"days": 29, "hours": 1}, logging.WARNING, "in 29 days"),
        ({"days": 6, "hours": 1}, logging.ERROR, "in 6 days"),
        ({"hours": 3}, logging.ERROR, "within a day"),
        ({"days": -1}, logging.ERROR, "it has expired"),
    ],
)
def test_the_log_tells_when_our_certificate_expires(
    caplog: pytest.LogCaptureFixture, left: dict[str, int], level: int | None, said: str
) -> None:
    credentials = Credentials(IDENTITY, Trust.nothing())
    assert credentials.identity is IDENTITY
    now = IDENTITY.expires - datetime.timedelta(**left)
    say_expiry(credentials, "4433@127.0.0.1", now)
    found = [(one.levelno, getattr(one, "event", "")) for one in caplog.records]
    assert found == ([] if level is None else [(level, "certificate_expires")])
    assert said in caplog.text


def test_nothing_is_said_of_a_certificate_that_nobody_needed() -> None:
    credentials = Credentials(None, Trust.nothing())
    say_expiry(credentials, "a@h", datetime.datetime.now(datetime.UTC))
    assert credentials.expires is None


@pytest.mark.io
async def test_the_time_left_is_a_metric(tmp_path: Path) -> None:
    (metric,) = [one for one in METRICS if one.name == "certificate_left_seconds"]
    async with Node("0@127.0.0.1", cookie="c", identity=IDENTITY, trust=Trust.nothing()) as node:
        stats = node.stats()
        ((_, left),) = metric.read(stats)
    assert stats.certificate_expires == IDENTITY.expires.timestamp()
    assert abs(left - (IDENTITY.expires.timestamp() - time.time())) < 60
