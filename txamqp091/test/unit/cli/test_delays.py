# -*- test-case-name: txamqp091.test.unit.cli.test_delays -*-
"""
The commands ``delay show`` and ``delay remove``.
"""

from __future__ import annotations

from txamqp091.service.delay_queues import LEVELS
from txamqp091.test.support.command_case import CommandCase


class DelayTests(CommandCase):
    """
    The delay queues of a virtual host.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("orders")

    def test_none(self) -> None:
        """
        Without delay queues there is nothing to show or to remove.
        """
        self.command("delay", "show", status=1)
        self.assertEqual(self.command("delay", "remove").out, "removed: 0 queues\n")

    def test_show(self) -> None:
        """
        Each queue is shown with its delay and its messages.
        """
        for _ in range(2):
            self.command("publish", "orders", "x", "--delay", "5")
        records = self.command("delay", "show", "--json").records
        self.assertEqual(len(records), LEVELS)
        self.assertEqual(
            records[2],
            {"queue": "txamqp091-delay-02", "seconds": 4, "messages": 2},
        )
        self.assertIn("4 s  2 messages", self.command("delay", "show").out)

    def test_remove(self) -> None:
        """
        Queues with messages are not removed, and work on.
        """
        self.command("publish", "orders", "x", "--delay", "5")
        started = self.command("delay", "remove", status=73)
        self.assertIn("1 messages wait", started.err)
        self.advance(5)
        self.assertQueue("orders", ready=1)
        started = self.command("delay", "remove")
        self.assertEqual(started.out, f"removed: {LEVELS} queues\n")
        self.assertEqual(self.broker.queues(), ["orders"])
        delayed = [each for each in self.broker.exchanges() if "delay" in each]
        self.assertEqual(delayed, [])

    def test_discard(self) -> None:
        """
        ``--discard`` removes them with their messages; publishing makes new ones.
        """
        self.command("publish", "orders", "x", "--delay", "5")
        self.command("delay", "remove", "--discard")
        self.assertEqual(self.broker.queues(), ["orders"])
        self.command("publish", "orders", "y", "--delay", "5")
        self.advance(5)
        self.assertEqual(self.broker.queue("orders").bodies, [b"y"])
