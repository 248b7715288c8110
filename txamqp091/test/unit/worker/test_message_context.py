# -*- test-case-name: txamqp091.test.unit.worker.test_message_context -*-
"""
What handlers log names their message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from io import StringIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.consumer import Consumer
from txamqp091.daemon.logs import JSONLines, StandardLibraryHandler, TextLines
from txamqp091.message import Delivery
from txamqp091.test.support.peer import Peer
from txamqp091.wire.properties import Properties
from txamqp091.worker import HandlerOptions, log_fields
from txamqp091.worker.handler_runner import HandlerRunner

FIELDS = {
    "queue": "work",
    "consumer": "shop",
    "delivery_tag": 1,
    "routing_key": "order.new",
    "message_id": "m1",
    "correlation_id": "c1",
}


class ContextTests(SynchronousTestCase):
    """
    Handlers that log.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.peer.handshake()
        self.channel = self.peer.open_channel()

    def handle(self, handler: Callable[[Delivery], object]) -> None:
        """
        Deliver a message to a handler.
        """
        options = HandlerOptions(consumer="shop")
        runner = HandlerRunner(handler, "work", self.peer.clock, options)
        consuming: Deferred[Consumer] = self.channel.basic_consume("work", runner.take)
        self.peer.serve()
        self.successResultOf(consuming)
        properties = Properties(message_id="m1", correlation_id="c1")
        self.peer.deliver(
            1, "ctag-1.1", 1, b"x", properties=properties, routing_key="order.new"
        )

    def test_fields(self) -> None:
        """
        The fields name the message while its handler runs, in a coroutine also after it
        has waited; and nothing otherwise.
        """
        seen: list[dict[str, Any]] = []
        waiting: Deferred[None] = Deferred()

        async def handler(delivery: Delivery) -> None:
            seen.append(log_fields())
            await waiting
            seen.append(log_fields())

        self.handle(handler)
        self.assertEqual(log_fields(), {})
        waiting.callback(None)
        self.assertEqual(seen, [FIELDS, FIELDS])
        self.assertEqual(log_fields(), {})

    def test_undecodable(self) -> None:
        """
        What cannot be decoded is left out.
        """
        seen: list[dict[str, Any]] = []
        runner = HandlerRunner(
            lambda _: seen.append(log_fields()), "work", self.peer.clock
        )
        consuming: Deferred[Consumer] = self.channel.basic_consume("work", runner.take)
        self.peer.serve()
        self.successResultOf(consuming)
        raw = (0x0080).to_bytes(2, "big") + b"\xff"
        self.peer.deliver(1, "ctag-1.1", 1, b"x", Properties.from_wire(raw))
        self.assertNotIn("message_id", seen[0])
        self.assertEqual(seen[0]["consumer"], "work")

    def test_json(self) -> None:
        """
        They are members of each line of JSON, whoever logs.
        """
        file = StringIO()
        observer = JSONLines(file)
        log = Logger("shop", observer=observer)
        self.handle(lambda delivery: log.info("on its way", queue="mine"))
        log.info("something else")
        first, second = map(json.loads, file.getvalue().splitlines())
        self.assertEqual({**FIELDS, "queue": "mine"}.items() - first.items(), set())
        self.assertNotIn("message_id", second)

    def test_text(self) -> None:
        """
        They end an event's text.
        """
        file = StringIO()
        log = Logger("shop", observer=TextLines(file))
        self.handle(lambda delivery: log.info("on its way\nor nearly"))
        self.assertIn(
            "on its way\n\tor nearly (queue=work consumer=shop delivery_tag=1 ",
            file.getvalue(),
        )
        self.assertTrue(file.getvalue().endswith("message_id=m1 correlation_id=c1)\n"))

    def test_standard_library(self) -> None:
        """
        The same for what is logged by the standard library's ``logging``.
        """
        seen: list[dict[str, Any]] = []
        library = logging.getLogger("shop.test")
        handler = StandardLibraryHandler()
        library.addHandler(handler)
        self.addCleanup(library.removeHandler, handler)

        class Noting(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(log_fields())

        noting = Noting()
        library.addHandler(noting)
        self.addCleanup(library.removeHandler, noting)
        self.handle(lambda delivery: library.warning("on its way"))
        self.assertEqual(seen, [FIELDS])
