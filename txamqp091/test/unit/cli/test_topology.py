# -*- test-case-name: txamqp091.test.unit.cli.test_topology -*-
"""
The commands declare and diff.
"""

from __future__ import annotations

from pathlib import Path

from txamqp091.arguments import classic_queue
from txamqp091.test.support.command_case import CommandCase

TEXT = """
exchanges = [{name = "shop", type = "topic"}]
queues = [{name = "copies"}]
bindings = [{source = "shop", queue = "orders", routing_key = "order.*"}]
[[consumers]]
queue = "orders"
handler = "not.installed:here"
declare = true
"""


class TopologyTests(CommandCase):
    """
    A file of settings, and a broker.
    """

    def setUp(self) -> None:
        super().setUp()
        path = Path(self.mktemp()).absolute()
        path.write_text(TEXT)
        self.path = str(path)

    def test_declare(self) -> None:
        """
        ``declare`` makes what ``diff`` has found missing.
        """
        started = self.command("diff", self.path, "--json", status=65)
        states = {each["entity"]: each["state"] for each in started.records}
        self.assertEqual(states["queue 'orders'"], "missing")
        self.assertEqual(self.broker.queues(), [])
        started = self.command("declare", self.path)
        self.assertIn("queue 'orders.dead': declared\n", started.out)
        self.assertTrue(self.broker.publish("shop", "order.eu", b"x"))
        self.assertQueue("orders", ready=1)
        self.command("diff", self.path)

    def test_different(self) -> None:
        """
        A queue with other arguments is told by both, and the rest is declared.
        """
        self.broker.declare_queue("copies", arguments=classic_queue(max_length=5))
        started = self.command("declare", self.path, "--json", status=73)
        errors = {each["entity"]: each["error"] for each in started.records}
        self.assertIn("inequivalent arg", errors["queue 'copies'"])
        self.assertIsNone(errors["queue 'orders'"])
        self.assertIn("different", self.command("diff", self.path, status=65).out)

    def test_no_file(self) -> None:
        """
        Without a file there is nothing to declare.
        """
        self.assertIn("nothing", self.command("declare", status=78).err)
