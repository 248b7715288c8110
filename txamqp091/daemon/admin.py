# -*- test-case-name: txamqp091.test.unit.daemon.test_admin -*-
"""
The admin site of a daemon: ``/live``, ``/ready``, its alias ``/health``, ``/metrics``,
and ``/pause`` and ``/resume``, which take a POST.

``/live`` answers as long as the reactor runs; if there is no answer, restart the
process.  ``/ready`` says whether every consumer is subscribed and making progress; a
daemon that is not ready may recover by itself.

Anyone who can reach the endpoint can send requests, so the site is frugal: it reads no
request bodies, answers one request per connection, and limits connections in number and
in time.
"""

from __future__ import annotations

__all__ = ["AdminService", "admin_endpoint", "admin_site"]

import json
import os
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from txamqp091.daemon.metrics import CONTENT_TYPE
from txamqp091.errors import printable
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.health import Health

_log = Logger(namespace="txamqp091.daemon")

#: How many connections the site accepts at a time.
CONNECTIONS = 50

#: How many seconds a connection lasts at most, from its first byte to its last.
CONNECTION_SECONDS = 10.0

#: For how many seconds the site tries to listen, and how often.
LISTEN_SECONDS = 30.0
_LISTEN_EVERY = 1.0

_TOO_LARGE = (
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class _Page(Resource):
    """
    A page: a function that returns status, content type and body.
    """

    isLeaf = True

    def __init__(self, make: Callable[[], tuple[int, bytes, bytes]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make = make

    def render(self, request: Request) -> bytes:
        """
        Twisted: answer.
        """
        if request.method in (b"GET", b"HEAD"):
            status, content_type, body = self._make()
        else:
            status, content_type, body = _json(405, {"methods": ["GET", "HEAD"]})
            request.setHeader(b"allow", b"GET, HEAD")
        request.setResponseCode(status)
        request.setHeader(b"content-type", content_type)
        request.setHeader(b"cache-control", b"no-store")
        return body


class _Control(Resource):
    """
    ``/pause/CONSUMER``, ``/pause/CONSUMER/SECONDS`` and ``/resume/CONSUMER``.
    """

    isLeaf = True

    def __init__(
        self,
        consumers: Sequence[ConsumerService],
        act: Callable[[ConsumerService, list[str]], None],
        anywhere: bool,
    ) -> None:
        """
        :param act: called with the consumer and the rest of the path; raises ValueError
            if that is wrong.
        :param anywhere: whether hosts beyond loopback may send requests.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._consumers = consumers
        self._act = act
        self._anywhere = anywhere

    def render(self, request: Request) -> bytes:
        """
        Twisted: answer.
        """
        status, content_type, body = self._answer(request)
        request.setResponseCode(status)
        request.setHeader(b"content-type", content_type)
        request.setHeader(b"cache-control", b"no-store")
        return body

    def _answer(self, request: Request) -> tuple[int, bytes, bytes]:
        if request.method != b"POST":
            request.setHeader(b"allow", b"POST")
            return _json(405, {"methods": ["POST"]})
        # Only browsers send it: a page of another site must not control the daemon.
        if request.getHeader(b"origin") is not None:
            return _json(403, {"error": "requests of web pages are refused"})
        if _is_public(request.getHost()) and not self._anywhere:
            error = "allowed over loopback and Unix sockets; see admin_control"
            return _json(403, {"error": error})
        try:
            name, *rest = [each.decode() for each in request.postpath or [b""]]
        except UnicodeDecodeError:
            return _json(400, {"error": "the path is not UTF-8"})
        consumer = next((each for each in self._consumers if each.label == name), None)
        if consumer is None:
            names = [each.label for each in self._consumers]
            return _json(404, {"consumers": names})
        try:
            self._act(consumer, rest)
        except ValueError as error:
            return _json(400, {"error": str(error)})
        health = consumer.health()
        answer = {"paused": health.paused, "resumes_in": health.resumes_in}
        return _json(200, answer)


def _pause(consumer: ConsumerService, rest: list[str]) -> None:
    if not rest:
        consumer.pause()
        return
    [seconds] = rest if len(rest) == 1 else [""]
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", seconds):
        raise ValueError("the path is /pause/CONSUMER or /pause/CONSUMER/SECONDS")
    consumer.pause(float(seconds))


def _resume(consumer: ConsumerService, rest: list[str]) -> None:
    if rest:
        raise ValueError("the path is /resume/CONSUMER")
    consumer.resume()


class _Root(Resource):
    """
    The list of pages, at the root and with status 404 at every unknown path.
    """

    def getChild(self, path: bytes, request: Request) -> IResource:
        """
        Twisted: the page at an unknown path.
        """
        status = 200 if not path and not request.postpath else 404
        names = sorted(f"/{each.decode()}" for each in self.children)
        return _Page(lambda: _json(status, {"pages": names}))


def _json(status: int, data: object) -> tuple[int, bytes, bytes]:
    return status, b"application/json", json.dumps(data).encode() + b"\n"


class _Channel(HTTPChannel):
    """
    A connection to the site: one request without a body, and one answer.
    """

    site: _Site
    transport: Any
    _deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """
        Twisted: connected.
        """
        self.site.connections += 1
        # Not HTTPChannel's own time limit: each byte that comes would extend that.
        self._deadline = self.site.reactor.callLater(
            CONNECTION_SECONDS, self.transport.abortConnection
        )
        super().connectionMade()  # type: ignore[no-untyped-call]

    def allHeadersReceived(self) -> None:
        """
        Twisted: the headers are complete.  Refuse a request that announces a body.
        """
        if self.length == 0:
            super().allHeadersReceived()  # type: ignore[no-untyped-call]
        else:
            self.transport.write(_TOO_LARGE)
            self.transport.loseConnection()

    def rawDataReceived(self, data: bytes) -> None:
        """
        Twisted: received bytes of a body, which are dropped, or of a further request.
        """
        if self.length == 0:
            super().rawDataReceived(data)

    def checkPersistence(self, request: object, version: bytes) -> bool:
        """
        Twisted: whether the connection stays open after the answer.
        """
        return False

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """
        Twisted: disconnected.
        """
        self.site.connections -= 1
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class _Site(Site):
    """
    A site that logs no requests, since probes send one every few seconds, and limits
    the number of connections.

    :ivar connections: the number of open connections.
    """

    noisy = False
    displayTracebacks = False
    protocol = _Channel  # type: ignore[assignment]

    def __init__(self, root: Resource, reactor: IReactorTime) -> None:
        super().__init__(root, reactor=reactor, timeout=None)  # type: ignore[no-untyped-call]
        self.connections = 0
        self._full = False

    def startFactory(self) -> None:
        """
        Twisted: prepare the access log, which this site does not have.
        """

    def stopFactory(self) -> None:
        """
        Twisted: close the access log.
        """

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        Twisted: accept a connection, or close it at once.
        """
        full, self._full = self._full, self.connections >= CONNECTIONS
        if not self._full:
            return super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        if not full:
            _log.warn(
                "The admin site refuses connections: {limit} are open",
                limit=CONNECTIONS,
            )
        return None


def admin_site(
    reactor: IReactorTime,
    health: Callable[[], Health],
    metrics: Callable[[], bytes] | None = None,
    *,
    consumers: Sequence[ConsumerService] = (),
    control_anywhere: bool = False,
) -> Site:
    """
    Make the site.

    :param health: returns the present health of the daemon.
    :param metrics: returns the content of ``/metrics``; by default there is no such
        page.
    :param consumers: those that can be paused and resumed.
    :param control_anywhere: whether that is possible for hosts beyond loopback.
    """

    def ready() -> tuple[int, bytes, bytes]:
        now = health()
        return _json(200 if now.ready else 503, now.as_dict())

    root = _Root()  # type: ignore[no-untyped-call]
    root.putChild(b"live", _Page(lambda: _json(200, {"live": True})))
    root.putChild(b"ready", _Page(ready))
    root.putChild(b"health", _Page(ready))
    if metrics is not None:
        root.putChild(b"metrics", _Page(lambda: (200, CONTENT_TYPE, metrics())))
    if consumers:
        for name, act in ((b"pause", _pause), (b"resume", _resume)):
            root.putChild(name, _Control(consumers, act, control_anywhere))
    return _Site(root, reactor)


def admin_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    The endpoint to listen on.  The socket of a ``unix:`` endpoint that names no mode is
    for its user and group only; Twisted's default lets every user connect.

    :raises ValueError: the description is not an endpoint.
    """
    if description.startswith("unix:") and not re.search(r"(?<!\\):mode=", description):
        description += ":mode=660"
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(str(error)) from None
    return endpoint


class AdminService(Service):
    """
    Listens for clients of the site.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        site: Site,
        failed: Callable[[BaseException], object],
    ) -> None:
        """
        :param failed: called with the error if the service cannot listen, or, for an
            address that is in use or not there yet, could not for 30 seconds.
        """
        self._reactor = reactor
        self._endpoint = endpoint
        self._site = site
        self._failed = failed
        self._give_up_at = 0.0
        self._retry: IDelayedCall | None = None
        self._listening: Deferred[IListeningPort | None] = succeed(None)

    def startService(self) -> None:
        """
        Twisted: listen.
        """
        Service.startService(self)
        self._give_up_at = self._reactor.seconds() + LISTEN_SECONDS
        self._listen()

    def _listen(self) -> None:
        listening = cast(
            "Deferred[IListeningPort | None]", self._endpoint.listen(self._site)
        )
        self._listening = listening.addCallbacks(self._has_listened, self._has_failed)

    def _has_listened(self, port: IListeningPort | None) -> IListeningPort | None:
        assert port is not None
        address = port.getHost()
        if _is_public(address):
            _log.warn(
                "The admin site listens on {address}: every host that reaches this "
                "address can read it.  Add interface=127.0.0.1 if that is not intended",
                address=_shown(address),
            )
        else:
            _log.info("The admin site listens on {address}", address=_shown(address))
        return port

    def _has_failed(self, failure: Failure) -> None:
        error = failure.value
        if not self.running or error is None or isinstance(error, CancelledError):
            return
        left = self._give_up_at - self._reactor.seconds()
        if not isinstance(error, CannotListenError) or left <= 0:
            self._failed(error)
            return
        if self._retry is None:
            _log.warn(
                "The admin site cannot listen: {error}.  Trying again for {limit:.0f} "
                "s",
                error=printable(str(error).rstrip("."), 500),
                limit=LISTEN_SECONDS,
            )
        self._retry = self._reactor.callLater(_LISTEN_EVERY, self._listen)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: stop listening.
        """
        Service.stopService(self)
        if self._retry is not None and self._retry.active():
            self._retry.cancel()

        def stop(port: IListeningPort | None) -> Deferred[Any] | None:
            stopping: Deferred[Any] | None = (
                None if port is None else port.stopListening()
            )
            return stopping

        self._listening.cancel()
        stopped: Deferred[None] = self._listening.addCallback(stop)
        self._listening = succeed(None)
        return stopped


def _is_public(address: IAddress) -> bool:
    """
    Whether other hosts may reach an address.
    """
    if not isinstance(address, IPv4Address | IPv6Address):
        return False
    return not ip_address(address.host.partition("%")[0]).is_loopback


def _shown(address: IAddress) -> str:
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    name = address.name if isinstance(address, UNIXAddress) else str(address)
    return printable(os.fsdecode(name or b""))
