"""A view as JSON."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from typing import Any

from quicdist.cli.json_output import Value, json_value
from quicdist.cli.top.python_node import PythonSample
from quicdist.cli.top.sampling import Process, Sample
from quicdist.cli.top.watching import View


def fields(view: View) -> dict[str, Value]:
    """Returns a view as JSON fields. `kind` is `beam` or `python`."""
    sample = view.sample
    shown: dict[str, Value] = {"node": view.peer, "problem": view.problem}
    if view.connection is not None:
        trip = view.connection.info.round_trip
        shown["connection"] = {
            "carrier": view.connection.info.alpn or view.connection.info.carrier,
            "path": view.connection.info.path,
            "round_trip_ms": None if trip is None else round(trip * 1000, 3),
            "received_per_s": view.connection.received,
            "sent_per_s": view.connection.sent,
        }
    if isinstance(sample, PythonSample):
        status = {name: json_value(value, view.peer) for name, value in _plain(sample).items()}
        return {**shown, "kind": "python", "window": sample.window, **status}
    if sample is None:
        return shown
    figures = {
        name: json_value(value, view.peer) for name, value in sample.figures._asdict().items()
    }
    figures["memory"] = {str(name): size for name, size in sample.figures.memory}
    return {
        **shown,
        "kind": "beam",
        "window": sample.window,
        **{f"{name}_count" if name == "processes" else name: one for name, one in figures.items()},
        "processes": [_process(row, sample, view.peer) for row in sample.rows],
    }


def _plain(sample: PythonSample) -> dict[str, object]:
    status = _fields(sample.status)
    del status["rows"]
    return {
        **status,
        "processes_count": status["processes"],
        "processes": [_fields(row) for row in sample.status.rows],
        "connections": [_fields(one) for one in sample.status.connections],
        "cpu_share": round(sample.cpu_share, 3),
    }


def _fields(record: Any) -> dict[str, object]:
    """Returns the fields of a dataclass. Unlike `asdict`, it does not take terms apart."""
    return {one.name: getattr(record, one.name) for one in dataclass_fields(record)}


def _process(row: Process, sample: Sample, peer: str) -> Value:
    return {
        "pid": json_value(row.pid, peer),
        "reductions_per_s": round(row.reductions / sample.window),
        "memory": row.memory,
        "mailbox": row.mailbox,
        "title": _text(row.title, peer),
        "function": _text(row.doing, peer),
    }


def _text(term: object, peer: str) -> Value:
    match term:
        case None:
            return None
        case (str() as module, str() as function, int() as arity):
            return f"{module}:{function}/{arity}"
    return json_value(term, peer)
