# -*- test-case-name: txamqp091.test.unit.daemon.test_admin -*-
"""
The small web site by which others see how the daemon is: ``/live``, ``/ready``, and
``/metrics`` if there are any.

*Live* is a process whose reactor runs: if it does not answer, start it anew.  *Ready*
is one whose every consumer is subscribed and gets on with its work; one that is not may
become so by itself.
"""

from __future__ import annotations

__all__ = ["AdminService", "admin_site"]

import json
from collections.abc import Callable
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from txamqp091.worker.health import Health


class _Page(Resource):
    """
    A page of JSON.
    """

    isLeaf = True

    def __init__(self, make: Callable[[], tuple[int, object]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make = make

    def render_GET(self, request: Request) -> bytes:
        """
        Twisted: answer.
        """
        status, data = self._make()
        return _answer(request, status, data)


class _Root(Resource):
    """
    What is at no page's place.
    """

    def getChild(self, path: bytes, request: Request) -> IResource:
        """
        Twisted: there is no such page, unless it is this one.
        """
        if not path and not request.postpath:
            return self
        return _Page(lambda: (404, {"pages": sorted(map(_name, self.children))}))

    def render_GET(self, request: Request) -> bytes:
        """
        Twisted: say which pages there are.
        """
        return _answer(request, 200, {"pages": sorted(map(_name, self.children))})


def _name(path: object) -> str:
    return f"/{path.decode() if isinstance(path, bytes) else path}"


def _answer(request: Request, status: int, data: object) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    return json.dumps(data).encode() + b"\n"


class _QuietSite(Site):
    """
    A site that does not log each look at it: there is one every few seconds.
    """

    noisy = False
    displayTracebacks = False

    def log(self, request: http.Request) -> None:
        """
        Twisted: log a request.
        """


def admin_site(health: Callable[[], Health], metrics: IResource | None = None) -> Site:
    """
    The site.

    :param health: how the daemon is, now.
    :param metrics: the page ``/metrics``.
    """

    def ready() -> tuple[int, object]:
        now = health()
        return (200 if now.ready else 503), now.as_dict()

    root = _Root()  # type: ignore[no-untyped-call]
    root.putChild(b"live", _Page(lambda: (200, {"live": True})))
    root.putChild(b"ready", _Page(ready))
    if metrics is not None:
        root.putChild(b"metrics", metrics)
    return _QuietSite(root)  # type: ignore[no-untyped-call]


class AdminService(Service):
    """
    Listens for those who want to see the site.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        site: Site,
        failed: Callable[[BaseException], object],
    ) -> None:
        """
        :param failed: told why it cannot listen.
        """
        self._endpoint = endpoint
        self._site = site
        self._failed = failed
        self._listening: Deferred[IListeningPort | None] = succeed(None)

    def startService(self) -> None:
        """
        Twisted: listen.
        """
        Service.startService(self)
        self._listening = cast(
            "Deferred[IListeningPort | None]", self._endpoint.listen(self._site)
        )
        self._listening.addErrback(self._not_listening)

    def _not_listening(self, failure: Failure) -> None:
        if self.running and failure.value is not None:
            self._failed(failure.value)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: listen no longer.
        """
        Service.stopService(self)

        def stop(port: IListeningPort | None) -> Deferred[Any] | None:
            stopping: Deferred[Any] | None = (
                None if port is None else port.stopListening()
            )
            return stopping

        self._listening.cancel()
        stopped: Deferred[None] = self._listening.addCallback(stop)
        self._listening = succeed(None)
        return stopped
