# -*- test-case-name: txamqp091.test.unit.daemon.test_admin -*-
"""
The pages that say how the daemon is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from txamqp091.daemon.admin import (
    CONNECTIONS,
    AdminService,
    admin_endpoint,
    admin_site,
)
from txamqp091.service import AMQPClientService
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.handler_runner import HandlerOptions
from txamqp091.worker.health import ConsumerHealth, Health

GOOD = ConsumerHealth(name="shop", queue="orders", subscribed=True)


def connect(site: Site) -> tuple[Any, StringTransport]:
    """
    Connect to a site: its end of the connection, and what it writes to.
    """
    transport = StringTransport()
    channel: Any = site.buildProtocol(None)
    channel.makeConnection(transport)
    return channel, transport


def get(site: Site, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """
    What a site answers, with the bytes of a real request.
    """
    channel, transport = connect(site)
    channel.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    head, _, body = transport.value().decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    channel.connectionLost(Failure(ConnectionDone()))
    return int(status.split()[1]), headers, body


class HealthTests(SynchronousTestCase):
    """
    When the daemon is ready.
    """

    def test_ready(self) -> None:
        """
        It is when all consumers are subscribed and get on.
        """
        self.assertTrue(Health(consumers=[GOOD]).ready)
        # Publishing is not what a consumer does.
        self.assertTrue(Health(consumers=[GOOD], blocked="low on memory").ready)

    def test_not_ready(self) -> None:
        """
        It is not otherwise, and says why.
        """
        absent = ConsumerHealth(name="more", queue="q", subscribed=False)
        stalled = ConsumerHealth(name="slow", queue="q", subscribed=True, stalled=301)
        for health, problems in (
            (Health(), []),
            (Health(consumers=[GOOD], stopping=True), ["stopping"]),
            (Health(consumers=[GOOD], connected=False), ["not connected"]),
            (
                Health(consumers=[GOOD], connected=False, error="403 no"),
                ["not connected: 403 no"],
            ),
            (Health(consumers=[GOOD], problem="too old"), ["too old"]),
            (Health(consumers=[GOOD, absent]), ["more: not subscribed"]),
            (Health(consumers=[stalled]), ["slow: no message was settled for 301 s"]),
            (Health(consumers=[GOOD], expired=True), ["the token has expired"]),
            (
                Health(consumers=[GOOD], undeclared=["queue 'q': 406"]),
                ["not declared: queue 'q': 406"],
            ),
        ):
            self.assertFalse(health.ready)
            self.assertEqual(health.problems, problems)


class PageTests(SynchronousTestCase):
    """
    The pages.
    """

    def setUp(self) -> None:
        self.health = Health(consumers=[GOOD])
        self.clock = Clock()
        self.site = self.make(lambda: b"some 1\n")

    def make(self, metrics: Callable[[], bytes] | None = None) -> Site:
        """
        A site.
        """
        reactor = cast(IReactorTime, self.clock)
        return admin_site(reactor, lambda: self.health, metrics)

    def tearDown(self) -> None:
        """
        No connection leaves anything behind.
        """
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_live(self) -> None:
        """
        A process that answers lives, ready or not.
        """
        self.health = Health(connected=False)
        status, headers, body = get(self.site, "/live")
        self.assertEqual((status, json.loads(body)), (200, {"live": True}))
        self.assertEqual(headers["content-type"], "application/json")
        self.assertEqual(headers["cache-control"], "no-store")

    def test_ready(self) -> None:
        """
        The status is 200 or 503, and the page says why.
        """
        status, _, body = get(self.site, "/ready")
        self.assertEqual(status, 200)
        self.assertEqual(json.loads(body)["consumers"][0]["name"], "shop")
        self.health = Health(consumers=[GOOD], connected=False)
        for path in ("/ready", "/health"):
            status, _, body = get(self.site, path)
            self.assertEqual(status, 503)
            self.assertEqual(json.loads(body)["problems"], ["not connected"])

    def test_metrics(self) -> None:
        """
        The page ``/metrics`` exists if there are metrics.
        """
        status, headers, body = get(self.site, "/metrics")
        self.assertEqual((status, body), (200, "some 1\n"))
        self.assertIn("version=0.0.4", headers["content-type"])
        self.assertEqual(get(self.make(), "/metrics")[0], 404)

    def test_elsewhere(self) -> None:
        """
        Other paths list the pages.
        """
        status, _, body = get(self.site, "/nowhere/at/all")
        pages = {"pages": ["/health", "/live", "/metrics", "/ready"]}
        self.assertEqual((status, json.loads(body)), (404, pages))
        status, _, body = get(self.site, "/")
        self.assertEqual((status, json.loads(body)), (200, pages))
        self.assertEqual(get(self.site, "/live", "HEAD")[2], "")

    def test_quiet(self) -> None:
        """
        Requests are not logged.
        """
        with capturedLogs() as events:
            get(self.site, "/live")
        self.assertEqual(events, [])


class LimitTests(SynchronousTestCase):
    """
    What strangers cannot do.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.site = admin_site(cast(IReactorTime, self.clock), Health)

    def test_body(self) -> None:
        """
        A request that announces a body is refused at once, and its body is not read.
        """
        for headers, body in (
            ("Content-Length: 8388608", b"a&" * 4000),
            ("Content-Length: 3", b"a&a"),
            ("Content-Length: 3", b""),
            ("Transfer-Encoding: chunked", b"3\r\na&a\r\n0\r\n\r\n"),
            ("Content-Length: 9\r\nExpect: 100-continue", b""),
            ("Content-Length: 3", b"abcGET /live HTTP/1.1\r\n\r\n"),
        ):
            for method in ("POST", "GET"):
                channel, transport = connect(self.site)
                request = f"{method} /live HTTP/1.1\r\n{headers}\r\n\r\n"
                channel.dataReceived(request.encode() + body)
                channel.dataReceived(body)
                answer = transport.value()
                self.assertTrue(answer.startswith(b"HTTP/1.1 413 "), answer)
                self.assertEqual(answer.count(b"HTTP/1.1"), 1)
                self.assertTrue(transport.disconnecting)
                channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(get(self.site, "/live")[0], 200)

    def test_other_methods(self) -> None:
        """
        A request without a body that is no GET is refused.
        """
        for method in ("POST", "PUT", "BREW"):
            status, headers, body = get(self.site, "/live", method)
            self.assertEqual((status, headers["allow"]), (405, "get, head"))
            self.assertEqual(json.loads(body), {"methods": ["GET", "HEAD"]})

    def test_one_request(self) -> None:
        """
        There is one answer in a connection.
        """
        channel, transport = connect(self.site)
        channel.dataReceived(b"GET /live HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
        self.assertEqual(transport.value().count(b"HTTP/1.1 200"), 1)
        self.assertTrue(transport.disconnecting)
        channel.connectionLost(Failure(ConnectionDone()))

    def test_slow(self) -> None:
        """
        A connection lasts ten seconds, however many bytes come.
        """
        channel, transport = connect(self.site)
        for _ in range(9):
            channel.dataReceived(b"G")
            self.clock.advance(1)
        self.assertFalse(transport.disconnecting or transport.disconnected)
        self.clock.advance(1)
        self.assertTrue(transport.disconnected)
        channel.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """
        Further connections are closed at once while too many are open; that is logged
        once.
        """
        with capturedLogs() as events:
            channels = [connect(self.site)[0] for _ in range(CONNECTIONS)]
            for _ in range(3):
                self.assertIsNone(self.site.buildProtocol(None))
        [event] = events
        self.assertIn("refuses connections: 50 are open", formatEvent(event))
        for each in channels:
            each.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(get(self.site, "/live")[0], 200)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ServiceTests(SynchronousTestCase):
    """
    The endpoint.
    """

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.failures: list[BaseException] = []
        self.events = self.enterContext(capturedLogs())

    def start(self, description: str) -> AdminService:
        """
        A service that has been started.
        """
        reactor = cast(IReactorTime, self.reactor)
        endpoint = admin_endpoint(self.reactor, description)
        site = admin_site(reactor, Health)
        service = AdminService(reactor, endpoint, site, self.failures.append)
        service.startService()
        return service

    def said(self) -> list[str]:
        """
        The log.
        """
        return [formatEvent(each) for each in self.events]

    def taken(self) -> None:
        """
        Have the port taken.
        """

        def refuse(port: int, *_: object, **__: object) -> None:
            raise CannotListenError("", port, OSError(98, "Address already in use"))

        self.patch(self.reactor, "listenTCP", refuse)

    def test_public(self) -> None:
        """
        The log says where the site listens, and warns if other hosts can reach it.
        """
        for host, level, words in (
            (IPv4Address("TCP", "127.0.0.1", 9419), "info", "on 127.0.0.1:9419"),
            (IPv6Address("TCP", "::1", 9419), "info", "on [::1]:9419"),
            (IPv4Address("TCP", "0.0.0.0", 9419), "warn", "0.0.0.0:9419: every host"),
            (IPv6Address("TCP", "fe80::1%eth0", 9419), "warn", "every host"),
            (UNIXAddress(b"/run/x"), "info", "/run/x"),
        ):
            before = len(self.events)
            port = Mock(getHost=Mock(return_value=host))
            self.patch(self.reactor, "listenTCP", Mock(return_value=port))
            self.start("tcp:9419")
            [event] = self.events[before:]
            self.assertIn(words, formatEvent(event))
            self.assertEqual(event["log_level"].name, level)

    def test_unix(self) -> None:
        """
        The socket is for its user and group, unless the endpoint names another mode.
        """
        self.start("unix:/run/x")
        self.start("unix:/run/y:mode=666")
        self.start("unix:mode=600:address=/run/z")
        modes = [each[3] for each in self.reactor.unixServers]
        self.assertEqual(modes, [0o660, 0o666, 0o600])

    def test_taken_for_a_moment(self) -> None:
        """
        An address that is in use is tried again.
        """
        listen = self.reactor.listenTCP
        self.taken()
        self.start("tcp:9419:interface=127.0.0.1")
        self.reactor.advance(1)
        self.patch(self.reactor, "listenTCP", listen)
        self.reactor.advance(1)
        self.assertEqual(len(self.reactor.tcpServers), 1)
        first, second = self.said()
        self.assertIn("cannot listen: ", first)
        self.assertIn("Address already in use.  Trying again for 30 s", first)
        self.assertIn("listens on", second)
        self.assertEqual(self.failures, [])

    def test_taken(self) -> None:
        """
        If it stays in use, the service fails after half a minute.
        """
        self.taken()
        self.start("tcp:9419")
        for _ in range(30):
            self.assertEqual(self.failures, [])
            self.reactor.advance(1)
        [error] = self.failures
        self.assertIn("Address already in use", str(error))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stopped(self) -> None:
        """
        A service that waits for its address can be stopped.
        """
        self.taken()
        service = self.start("tcp:9419")
        self.successResultOf(service.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.failures, [])

    def test_no_endpoint(self) -> None:
        """
        What is not an endpoint is refused.
        """
        for description in ("tcp:", "tcp", "nowhere:1", "tcp:port=x", "unix"):
            with self.assertRaises(ValueError):
                admin_endpoint(self.reactor, description)


class ControlTests(SynchronousTestCase):
    """
    Consumers that are paused over HTTP.
    """

    def setUp(self) -> None:
        client = AMQPClientService(cast(IReactorTime, Clock()), "amqp://h")
        options = HandlerOptions(consumer="the shop")
        self.consumer = ConsumerService(client, "q", lambda _: None, options=options)
        self.site = self.make(False)
        self.addCleanup(self.consumer.resume)

    def make(self, anywhere: bool) -> Site:
        """
        A site.
        """
        return admin_site(
            cast(IReactorTime, Clock()),
            Health,
            consumers=[self.consumer],
            control_anywhere=anywhere,
        )

    def post(
        self, path: str, host: str = "127.0.0.1", headers: str = "", site: Any = None
    ) -> tuple[int, Any]:
        """
        What the site answers to a POST.
        """
        channel, transport = connect(site or self.site)
        transport.hostAddr = IPv4Address("TCP", host, 9419)
        request = f"POST {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"
        channel.dataReceived(request.encode())
        head, _, body = transport.value().decode().partition("\r\n\r\n")
        channel.connectionLost(Failure(ConnectionDone()))
        return int(head.split()[1]), json.loads(body) if body else None

    def test_pause(self) -> None:
        """
        A POST pauses a consumer, for ever or for a while, and another one resumes it.
        """
        answer = self.post("/pause/the%20shop")
        self.assertEqual(answer, (200, {"paused": True, "resumes_in": None}))
        self.assertTrue(self.consumer.paused)
        answer = self.post("/pause/the%20shop/60")
        self.assertEqual(answer, (200, {"paused": True, "resumes_in": 60.0}))
        answer = self.post("/resume/the%20shop")
        self.assertEqual(answer, (200, {"paused": False, "resumes_in": None}))
        self.assertFalse(self.consumer.paused)

    def test_refused(self) -> None:
        """
        Other hosts, web pages, other methods and wrong paths change nothing.
        """
        path = "/pause/the%20shop"
        self.assertEqual(self.post(path, host="192.0.2.1")[0], 403)
        self.assertEqual(self.post(path, headers="Origin: http://x\r\n")[0], 403)
        self.assertEqual(self.post(path, headers="Content-Length: 1\r\n")[0], 413)
        self.assertEqual(get(self.site, path)[0], 405)
        for wrong, status in {
            "/pause": 404,
            "/pause/": 404,
            "/pause/other": 404,
            f"{path}/soon": 400,
            f"{path}/-1": 400,
            f"{path}/1/2": 400,
            "/resume/the%20shop/1": 400,
            "/pause/%FF": 400,
        }.items():
            self.assertEqual(self.post(wrong)[0], status, wrong)
        self.assertFalse(self.consumer.paused)

    def test_anywhere(self) -> None:
        """
        Other hosts may, if the settings say so.
        """
        site = self.make(True)
        answer = self.post("/pause/the%20shop", host="192.0.2.1", site=site)
        self.assertEqual(answer[0], 200)
