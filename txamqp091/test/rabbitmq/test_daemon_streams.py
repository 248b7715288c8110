# -*- test-case-name: txamqp091.test.rabbitmq.test_daemon_streams -*-
"""
The real daemon reads the streams of a real RabbitMQ.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.test.rabbitmq.test_daemon_config import HANDLERS, ConfigTestCase
from txamqp091.test.support.daemons import DaemonProcess
from txamqp091.test.support.integration import every_broker


@every_broker
class StreamTests(ConfigTestCase):
    """
    Where it begins, and where it goes on.
    """

    def reader(self, queue: str, handler: str, on_error: str) -> DaemonProcess:
        """
        A daemon that reads a stream.
        """
        return self.configured(
            f"""
            [[queues]]
            name = "{queue}"
            arguments = {{x-queue-type = "stream"}}
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:{handler}"
            stream_offset = "first"
            offset_file = "{self.offset}"
            on_error = "{on_error}"
            prefetch = 10
            """
        )

    async def test_reads(self) -> None:
        """
        It reads each message once over restarts: what is not done when it is stopped,
        or what it has halted at, comes first the next time.
        """
        self.channel = await self.open_channel()
        await self.channel.confirm_select()
        queue = self.queue_name()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.offset = Path(folder, "offset")
        first = self.reader(queue, "brisk_or_bad", "reject")
        await first.when_said("Consuming from")
        ids = [str(each) for each in range(300)]
        await self.publish(queue, ids[:20])
        await self.publish(queue, ["x"], "bad")
        await self.publish(queue, ids[20:])
        await first.when_said("done ", 40)
        self.assertEqual(await first.terminate(), 0, first.output)
        kept = json.loads(self.offset.read_text())["offset"]
        done = self.done(first)
        self.assertEqual(sorted(done, key=int), ids[: len(done)])
        self.assertEqual(kept, len(done) + 1)
        self.assertIn("skipped", first.output)
        self.assertNotIn("The connection was lost", first.output)
        second = self.reader(queue, "plain", "halt")
        await self.publish(queue, ["y"], "bad")
        self.assertEqual(await second.when_ended(), ExitStatus.HALTED, second.output)
        self.assertEqual([*done, *self.done(second)], ids)
        self.assertEqual(json.loads(self.offset.read_text())["offset"], 301)
        third = self.reader(queue, "brisk_or_bad", "reject")
        await third.when_said("skipped")
        self.assertEqual(await third.terminate(), 0, third.output)
        self.assertEqual(self.done(third), [])
        self.assertEqual(json.loads(self.offset.read_text())["offset"], 302)
