# -*- test-case-name: txamqp091.test.test_health -*-
"""
The small web site by which others see how the daemon is: ``/live``, ``/ready``, and
``/metrics`` if there are any.

*Live* is a process whose reactor runs: if it does not answer, start it anew.  *Ready*
is one whose every consumer is subscribed and gets on with its work; one that is not may
become so by itself.
"""

from __future__ import annotations

__all__ = ["AdminService", "ConsumerHealth", "Health", "admin_site"]

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from txamqp091.service.outcomes import Tally


@dataclass(frozen=True, kw_only=True)
class ConsumerHealth:
    """
    How one consumer is.

    :ivar subscribed: whether the broker gives it messages.
    :ivar refused: why the broker does not, and will not, unless somebody changes
        something; "" if that is not so.
    :ivar running: how many handlers run.
    :ivar waiting: how many messages wait for a handler.
    :ivar stalled: for how many seconds no handler has begun or ended, if that is too
        long; else 0.
    :ivar idle: how many seconds ago the last handler has begun; None if none has.
    :ivar tally: what became of the messages.
    """

    name: str
    queue: str
    subscribed: bool
    refused: str = ""
    running: int = 0
    waiting: int = 0
    stalled: float = 0.0
    idle: float | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def problem(self) -> str:
        """
        Why it is not ready; "" if it is.
        """
        if self.refused:
            return f"the broker refuses it: {self.refused}"
        if not self.subscribed:
            return "not subscribed"
        if self.stalled:
            return f"no handler has ended for {self.stalled:.0f} s"
        return ""


@dataclass(frozen=True, kw_only=True)
class Health:
    """
    How the daemon is.

    :ivar connected: whether AMQP is open.
    :ivar blocked: why the broker lets nobody publish; "" if it does.
    :ivar stopping: whether the daemon is about to end.
    :ivar expired: whether the token has expired, and there is no new one.
    :ivar undeclared: what is to be declared, and could not be, and why.
    """

    consumers: Sequence[ConsumerHealth] = ()
    connected: bool = True
    blocked: str = ""
    stopping: bool = False
    expired: bool = False
    undeclared: Sequence[str] = ()

    @property
    def problems(self) -> list[str]:
        """
        Why it is not ready.
        """
        problems = ["stopping"] if self.stopping else []
        if not self.connected:
            problems.append("not connected")
        if self.expired:
            problems.append("the token has expired")
        problems += [f"not declared: {each}" for each in self.undeclared]
        for each in self.consumers:
            if each.problem:
                problems.append(f"{each.name}: {each.problem}")
        return problems

    @property
    def ready(self) -> bool:
        """
        Whether every consumer is subscribed and gets on.
        """
        return bool(self.consumers) and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """
        The same as plain data.
        """
        return {
            "ready": self.ready,
            "problems": self.problems,
            "connected": self.connected,
            "blocked": self.blocked,
            "stopping": self.stopping,
            "expired": self.expired,
            "undeclared": list(self.undeclared),
            "consumers": [asdict(each) for each in self.consumers],
        }


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
