"""A port that a router maps, with a router that speaks UPnP on loopback."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from quicdist.carriers.relay import port_mapping
from quicdist.carriers.relay.port_mapping import PortMapping, location_of, map_port
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.io

OUTSIDE = "203.0.113.21"
_SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"

_DEVICE = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor>
</specVersion><device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<friendlyName>router</friendlyName><manufacturer>m</manufacturer><modelName>m</modelName>
<UDN>uuid:1</UDN><serviceList><service><serviceType>{_SERVICE}</serviceType>
<serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><SCPDURL>/scpd</SCPDURL>
<controlURL>/control</controlURL><eventSubURL>/event</eventSubURL></service></serviceList>
</device></root>"""

_IN = {
    "NewRemoteHost": "string",
    "NewExternalPort": "ui2",
    "NewProtocol": "string",
    "NewInternalPort": "ui2",
    "NewInternalClient": "string",
    "NewEnabled": "boolean",
    "NewPortMappingDescription": "string",
    "NewLeaseDuration": "ui4",
}
_WHICH = {name: _IN[name] for name in ("NewRemoteHost", "NewExternalPort", "NewProtocol")}
_OUT = {"NewExternalIPAddress": "string"}


def _arguments(names: dict[str, str], direction: str) -> str:
    return "".join(
        f"<argument><name>{name}</name><direction>{direction}</direction>"
        f"<relatedStateVariable>{name[3:]}</relatedStateVariable></argument>"
        for name in names
    )


_SCPD = (
    '<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0"><specVersion><major>1'
    "</major><minor>0</minor></specVersion><actionList><action><name>AddPortMapping</name>"
    f"<argumentList>{_arguments(_IN, 'in')}</argumentList></action><action>"
    f"<name>DeletePortMapping</name><argumentList>{_arguments(_WHICH, 'in')}</argumentList>"
    "</action><action>"
    f"<name>GetExternalIPAddress</name><argumentList>{_arguments(_OUT, 'out')}</argumentList>"
    "</action></actionList><serviceStateTable>"
    + "".join(
        f'<stateVariable sendEvents="no"><name>{name[3:]}</name><dataType>{kind}</dataType>'
        "</stateVariable>"
        for name, kind in (_IN | _OUT).items()
    )
    + "</serviceStateTable></scpd>"
)


class Router:
    """Answers HTTP requests and keeps the mappings that it was asked for."""

    def __init__(self) -> None:
        self.mappings: list[dict[str, str]] = []
        self.location = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = (await reader.readexactly(int(length[1]))).decode() if length else ""
        text = self._text(head, body)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(text), text.encode())
        )
        await writer.drain()
        writer.close()

    def _text(self, head: str, body: str) -> str:
        if head.startswith("GET /scpd"):
            return _SCPD
        if head.startswith("GET"):
            return _DEVICE
        names = ("AddPortMapping", "DeletePortMapping", "GetExternalIPAddress")
        action = next(name for name in names if name in body)
        arguments = dict(re.findall(r"<(New\w+)>([^<]*)<", body))
        result = ""
        if action == "AddPortMapping":
            self.mappings.append(arguments)
        elif action == "DeletePortMapping":
            self.mappings = [one for one in self.mappings if not arguments.items() <= one.items()]
        else:
            result = f"<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>"
        return (
            '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
            f'<u:{action}Response xmlns:u="{_SERVICE}">{result}</u:{action}Response>'
            "</s:Body></s:Envelope>"
        )


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    made = Router()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.location = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/device"
    async with server:
        yield made


async def test_the_router_is_asked_for_the_port_of_the_node(router: Router) -> None:
    assert await map_port(router.location, 4433) == (OUTSIDE, 4433)
    (mapping,) = router.mappings
    assert mapping["NewExternalPort"] == mapping["NewInternalPort"] == "4433"
    assert mapping["NewProtocol"] == "UDP"
    assert mapping["NewInternalClient"] == "127.0.0.1"
    assert mapping["NewLeaseDuration"] == "3600"


async def test_a_mapping_is_reported(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found() -> str | None:
        return router.location

    monkeypatch.setattr(port_mapping, "find_router", found)
    changes: list[object] = []
    mapping = PortMapping(4433, lambda: changes.append(mapping.address))
    await until(lambda: changes == [(OUTSIDE, 4433)])
    assert len(router.mappings) == 1
    await mapping.leave(PATIENCE)
    assert not router.mappings


async def test_a_router_that_does_not_answer_delays_no_end(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found() -> str | None:
        return router.location

    async def unanswered(location: str, port: int) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(port_mapping, "find_router", found)
    monkeypatch.setattr(port_mapping, "unmap_port", unanswered)
    mapping = PortMapping(4433, lambda: None)
    await until(lambda: mapping.address)
    await mapping.leave(0.01)
    assert len(router.mappings) == 1  # until its lease ends


async def test_no_router_and_a_hostile_one_map_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<bad>")
        await writer.drain()
        writer.close()

    asked: list[str | None] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    places = iter([None, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"])

    async def found() -> str | None:
        asked.append(next(places))
        return asked[-1]

    monkeypatch.setattr(port_mapping, "find_router", found)
    monkeypatch.setattr(port_mapping, "_RETRY", 0.01)
    async with server:
        mapping = PortMapping(4433, lambda: None)
        await until(lambda: len(asked) == 2)
        assert mapping.address is None
        mapping.close()


def test_a_location_is_used_only_on_the_host_that_answered() -> None:
    router = {"location": "http://192.168.1.1:5000/d.xml", "_host": "192.168.1.1"}
    for bad in (
        {"location": "http://192.168.1.9:80/d.xml", "_host": "192.168.1.1"},
        {"location": "http://router.example/d.xml", "_host": "192.168.1.1"},
        {"location": "http://[::1", "_host": "192.168.1.1"},
        {"location": "", "_host": "192.168.1.1"},
        {"_host": "192.168.1.1"},
    ):
        assert location_of([bad]) is None
        assert location_of([bad, router]) == "http://192.168.1.1:5000/d.xml"
