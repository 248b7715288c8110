# -*- test-case-name: txamqp091.test.unit.daemon.test_admin -*-
"""
The pages that say how the daemon is.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from txamqp091.daemon.admin import admin_site
from txamqp091.worker.health import ConsumerHealth, Health

GOOD = ConsumerHealth(name="shop", queue="orders", subscribed=True)


def get(site: Site, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """
    What a site answers, with the bytes of a real request.
    """
    transport = StringTransport()
    channel: Any = site.buildProtocol(None)
    channel.makeConnection(transport)
    request = f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    channel.dataReceived(request.encode())
    head, _, body = transport.value().decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


class Page(Resource):
    """
    A page of somebody else.
    """

    def render_GET(self, request: object) -> bytes:
        """
        Twisted: answer.
        """
        return b"some 1\n"


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
            (Health(consumers=[GOOD, absent]), ["more: not subscribed"]),
            (Health(consumers=[stalled]), ["slow: no handler has ended for 301 s"]),
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
        self.site = admin_site(lambda: self.health, Page())

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
        status, _, body = get(self.site, "/ready")
        self.assertEqual(status, 503)
        self.assertEqual(json.loads(body)["problems"], ["not connected"])

    def test_metrics(self) -> None:
        """
        There are metrics if there are any.
        """
        self.assertEqual(get(self.site, "/metrics")[2], "some 1\n")
        site = admin_site(lambda: self.health)
        self.assertEqual(get(site, "/metrics")[0], 404)

    def test_elsewhere(self) -> None:
        """
        At other places stands which pages there are.
        """
        status, _, body = get(self.site, "/nowhere/at/all")
        pages = {"pages": ["/live", "/metrics", "/ready"]}
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
