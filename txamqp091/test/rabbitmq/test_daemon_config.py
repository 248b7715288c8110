# -*- test-case-name: txamqp091.test.rabbitmq.test_daemon_config -*-
"""
The real daemon with a file of settings, run by the real ``twistd``, against a real
RabbitMQ: several consumers, retries, health, and what it tells others.
"""

from __future__ import annotations

import json
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest

from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.message import Delivery
from txamqp091.test.rabbitmq.test_daemon import DaemonTestCase
from txamqp091.test.support.daemons import DaemonProcess
from txamqp091.test.support.integration import every_broker, in_thread
from txamqp091.test.support.processes import free_ports
from txamqp091.wire.properties import Properties

HANDLERS = "txamqp091.test.support.daemon_handlers"


class _Answer(Protocol):
    """
    What a web server says until it closes.
    """

    def __init__(self, request: bytes) -> None:
        self.data = b""
        self.ended: Deferred[bytes] = Deferred()
        self._request = request

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.ended.callback(self.data)


class ConfigTestCase(DaemonTestCase):
    """
    A file of settings, and daemons that read it.
    """

    timeout = 240.0

    def write(self, text: str) -> Path:
        """
        Write the file.
        """
        if not hasattr(self, "path"):
            folder = self.enterContext(tempfile.TemporaryDirectory())
            self.path = Path(folder, "consumer.toml")
        self.path.write_text(text)
        return self.path

    def configured(self, text: str, *more: str, **environ: str) -> DaemonProcess:
        """
        A daemon with this file.
        """
        path = self.write(text)
        daemon = DaemonProcess(
            "--config",
            str(path),
            *more,
            environment={"TXAMQP091_URI": self.uri, **environ},
        )
        self.addCleanup(daemon.end)
        return daemon

    async def get(self, port: int, path: str) -> tuple[int, str]:
        """
        A page of the daemon's site.
        """
        from twisted.internet import reactor

        answer = _Answer(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), answer)
        head, _, body = (await answer.ended).decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    async def ready(self, port: int, expected: int) -> dict[str, Any]:
        """
        Wait until ``/ready`` has this status.
        """
        from twisted.internet import reactor

        while True:
            try:
                status, body = await self.get(port, "/ready")
            except ConnectError:
                status, body = 0, "{}"
            if status == expected:
                page: dict[str, Any] = json.loads(body)
                return page
            await deferLater(reactor, 0.05)

    async def fetch(self, queue: str) -> Delivery:
        """
        Wait for a message in a queue, and take it.
        """
        from twisted.internet import reactor

        while (delivery := await self.channel.basic_get(queue, True)) is None:
            await deferLater(reactor, 0.05)
        return delivery


@every_broker
class ConfigTests(ConfigTestCase):
    """
    What a file can say.
    """

    async def test_two_consumers(self) -> None:
        """
        Two consumers work side by side, one of them in threads; the log has lines of
        JSON, with one for each message.
        """
        first, second = await self.queue(), await self.queue()
        daemon = self.configured(
            f"""
            threads = 2
            [log]
            format = "json"
            messages = true
            [[consumers]]
            name = "brisk"
            queue = "{first}"
            handler = "{HANDLERS}:brisk"
            dead_letters = true
            [[consumers]]
            queue = "{second}"
            handler = "{HANDLERS}:blocking"
            dead_letters = true
            in_thread = true
            """
        )
        await daemon.when_said('"msg": "Consuming from', 2)
        await self.publish(first, ["a", "b"])
        await self.publish(second, ["c", "d", "e"])
        await daemon.when_said('"outcome": "ack"', 5)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        lines = [json.loads(each) for each in daemon.output.splitlines()]
        worked = {
            each["message_id"]: each for each in lines if each.get("outcome") == "ack"
        }
        self.assertEqual(sorted(worked), ["a", "b", "c", "d", "e"])
        self.assertEqual(worked["a"]["consumer"], "brisk")
        self.assertEqual(worked["c"]["queue"], second)
        self.assertGreater(worked["c"]["duration"], 0.04)
        self.assertIn("delivery_tag", worked["c"])
        threads = {each["name"] for each in lines if "blocked in" in each["msg"]}
        self.assertLessEqual(threads, {"amqp-handler-1", "amqp-handler-2"})
        stopped = [each["msg"] for each in lines if each["msg"].startswith("Stopped")]
        self.assertIn("Stopped (SIGTERM): brisk: 2 acknowledged", stopped[0])
        self.assertEqual(await self.left(first) + await self.left(second), [])

    async def retries(self, kind: str, method: str) -> None:
        """
        Let a message fail until it is parked.
        """
        self.channel = await self.open_channel()
        await self.channel.confirm_select()
        queue = self.queue_name()
        daemon = self.configured(
            f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            declare = true
            queue_type = "{kind}"
            [consumers.retry]
            delays = [0.2, 0.4]
            parking = "{queue}.parked"
            method = "{method}"
            """
        )
        await daemon.when_said("Consuming from")
        await self.channel.exchange_declare(f"{queue}-shop", "topic", durable=True)
        await self.channel.queue_bind(queue, f"{queue}-shop", "#")
        await self.channel.basic_publish(
            f"{queue}-shop",
            "order.new",
            b"bad order",
            Properties(message_id="m1", headers={"customer": 7}),
        )
        await self.publish(queue, ["good"])
        await daemon.when_said("done good")
        parked = await self.fetch(f"{queue}.parked")
        self.assertEqual(parked.body, b"bad order")
        headers = parked.headers
        self.assertEqual(headers["customer"], 7)
        self.assertEqual(headers["x-error"], "no such order")
        self.assertEqual(headers["x-error-type"], "builtins.ValueError")
        self.assertEqual(headers["x-error-tries"], 3)
        self.assertEqual(headers["x-original-exchange"], f"{queue}-shop")
        self.assertEqual(headers["x-original-routing-key"], "order.new")
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        [line] = daemon.said("Stopped")
        self.assertIn(
            "1 acknowledged, 0 requeued, 2 retried, 0 rejected, 1 dead-lettered", line
        )
        self.assertEqual(await self.left(queue), [])
        failures = daemon.said("The handler failed")
        self.assertEqual(len(failures), 3)
        for each in failures:
            self.assertIn("routing key 'order.new'", each)

    async def test_delay_queues(self) -> None:
        """
        A message that fails waits in delay queues, and is parked in the end, with the
        error in its headers; it keeps its routing key all the way.
        """
        for kind in ("quorum", "classic"):
            await self.retries(kind, "delay-queues")

    async def test_broker_delays(self) -> None:
        """
        RabbitMQ 4.3 delays by itself; older ones are told to be too old.
        """
        if self.broker.name.startswith("4.3"):
            await self.retries("quorum", "broker")
            return
        queue = self.queue_name()
        daemon = self.configured(
            f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            declare = true
            retry = {{ parking = "{queue}.parked", method = "broker" }}
            """
        )
        self.assertEqual(await daemon.when_ended(), ExitStatus.CONFIG)
        self.assertIn("this broker does not delay retries", daemon.output)

    async def test_innocents(self) -> None:
        """
        Of a message that ends its process, and those that were prefetched with it, that
        one alone is counted out.
        """
        self.channel = await self.open_channel()
        await self.channel.confirm_select()
        queue = self.queue_name()
        text = f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:crashing"
            declare = true
            [consumers.retry]
            delays = [1]
            max_deliveries = 3
            """
        daemon = self.configured(text)
        await daemon.when_said("Consuming from the queue")
        await daemon.terminate()
        await self.publish(queue, ["g0", "g1"])
        await self.publish(queue, ["p"], "poison")
        await self.publish(queue, [f"g{each}" for each in range(2, 9)])
        done: list[str] = []
        for _ in range(3):
            daemon = self.configured(text)
            self.assertEqual(await daemon.when_ended(), 139, daemon.output)
            done += self.done(daemon)
        daemon = self.configured(text)
        await daemon.when_said("dead-lettered to")
        await daemon.when_said("Consuming from the queue")
        while {*done, *self.done(daemon)} < {f"g{each}" for each in range(9)}:
            await daemon.when_said("done ", len(self.done(daemon)) + 1)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertEqual(await self.left(f"{queue}.dead"), ["p"])
        self.assertEqual(await self.left(queue), [])

    async def test_changed_retries(self) -> None:
        """
        Retries that are added to a queue that exists, or change, do not end the daemon:
        it goes on with the queue as it is, and logs the policy that would change it.
        """
        self.channel = await self.open_channel()
        await self.channel.confirm_select()
        queue = self.queue_name()
        for retry, parking in (
            ("", f"{queue}.dead"),
            (f'retry = {{delays = [0.1], parking = "{queue}.p"}}', f"{queue}.p"),
            (f'retry = {{delays = [0.2], parking = "{queue}.q"}}', f"{queue}.q"),
        ):
            daemon = self.configured(
                f"""
                [[consumers]]
                queue = "{queue}"
                handler = "{HANDLERS}:plain"
                declare = true
                {retry}
                """
            )
            await daemon.when_said("Consuming from the queue")
            await self.publish(queue, ["a"], "bad")
            await daemon.when_said(f"dead-lettered to {parking}")
            self.assertEqual(await daemon.terminate(), 0, daemon.output)
            warned = daemon.said("rabbitmqctl set_policy")
            self.assertEqual(len(warned), 1 if retry else 0)

    async def test_undecodable(self) -> None:
        """
        A message that no handler can decode goes to the dead letters, is logged once,
        and costs no reconnect.
        """
        queue = await self.queue(dead_letters=True)
        daemon = self.configured(
            f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:brisk"
            order_by = "header:customer"
            retry = {{ dead_letters = true, delays = [0.1] }}
            """
        )
        await daemon.when_said("Consuming from")
        # Deeper than we read, and RabbitMQ does not mind.
        table = b""
        for _ in range(33):
            table = b"\x01aF" + len(table).to_bytes(4, "big") + table
        raw = (0x2000).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table
        properties = Properties.from_wire(raw)
        await self.channel.basic_publish("", queue, b"x", properties)
        await self.publish(queue, ["good"])
        await daemon.when_said("done good")
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertEqual(len(daemon.said("dead-lettered by its queue")), 1)
        self.assertEqual(len(daemon.said("Connected to")), 1)
        await self.fetch(f"{queue}-dead")
        self.assertIsNone(await self.channel.basic_get(queue, True))

    async def test_timeout(self) -> None:
        """
        A handler that takes too long is cancelled, and has failed.
        """
        queue = await self.queue(dead_letters=True)
        daemon = self.configured(
            f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:never"
            dead_letters = true
            timeout = 0.2
            on_error = "reject"
            """
        )
        await self.publish(queue, ["a"])
        await daemon.when_said("the handler took longer than 0.2 s")
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertEqual(await self.letters(f"{queue}-dead", 1), ["a"])

    async def test_drains(self) -> None:
        """
        Criterion 21, with everything at once: stopped in the middle, messages that
        were retried, parked, worked on or given back are all somewhere, once.
        """
        self.channel = await self.open_channel()
        await self.channel.confirm_select()
        queue = self.queue_name()
        daemon = self.configured(
            f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:brisk_or_bad"
            declare = true
            prefetch = 50
            concurrency = 5
            [consumers.retry]
            delays = [600]
            parking = "{queue}.parked"
            method = "delay-queues"
            """
        )
        await daemon.when_said("Consuming from")
        for each in range(0, 300, 3):
            await self.publish(queue, [str(each), str(each + 1)])
            await self.publish(queue, [str(each + 2)], "bad")
        await daemon.when_said("done ", 20)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        done = [int(each) for each in self.done(daemon)]
        left = [int(each) for each in await self.left(queue)]
        waiting = [int(each) for each in await self.left(f"{queue}.retry.600s")]
        self.assertEqual(sorted([*done, *left, *waiting]), list(range(300)))
        self.assertIn(f"{len(waiting)} retried", daemon.said("Stopped")[0])


@every_broker
class AdminTests(ConfigTestCase):
    """
    What others see, and may tell it.
    """

    async def test_health(self) -> None:
        """
        It is ready while it is subscribed: 503 when its queue is deleted, and 200 when
        that is back.
        """
        queue = await self.queue()
        [port] = free_ports(1)
        daemon = self.configured(
            f"""
            admin = "tcp:{port}:interface=127.0.0.1"
            metrics = true
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            dead_letters = true
            """
        )
        page = await self.ready(port, 200)
        self.assertEqual(page["consumers"][0]["queue"], queue)
        await self.publish(queue, ["a"])
        await daemon.when_said("done a")
        status, body = await self.get(port, "/metrics")
        self.assertEqual(status, 200)
        labels = f'consumer="{queue}",outcome="ack",queue="{queue}"'
        self.assertIn(f"txamqp091_deliveries_total{{{labels}}} 1.0", body)
        await self.channel.queue_delete(queue)
        page = await self.ready(port, 503)
        [problem] = page["problems"]
        self.assertTrue(problem.startswith(f"{queue}: "), problem)
        self.assertFalse(page["consumers"][0]["subscribed"])
        self.assertEqual((await self.get(port, "/live"))[0], 200)
        await self.channel.queue_declare(queue)
        await self.ready(port, 200)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)

    async def test_diff(self) -> None:
        """
        It can compare what it would declare with what the broker has, which changes
        nothing.
        """
        self.channel = await self.open_channel()
        queue = self.queue_name()
        text = f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            declare = true
            """
        first = self.configured(text, "--diff")
        self.assertEqual(await first.when_ended(), ExitStatus.DIFFERENT, first.output)
        self.assertIn(f"queue '{queue}': missing", first.output)
        self.assertNotIn("[txamqp091", first.output)
        self.assertIn("Connected to", first.errors)
        daemon = self.configured(text)
        await daemon.when_said("Consuming from")
        second = self.configured(text, "--diff")
        self.assertEqual(await second.when_ended(), 0, second.output)
        self.assertIn(f"queue '{queue}': present", second.output)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        third = self.configured(f'{text}queue_type = "classic"', "--diff")
        self.assertEqual(await third.when_ended(), ExitStatus.DIFFERENT, third.output)
        self.assertIn(f"queue '{queue}': different", third.output)

    async def test_refused(self) -> None:
        """
        Criterion 20: a daemon whose queue was deleted, and that is not to wait for
        another one, ends with a status that says so.
        """
        queue = await self.queue()
        daemon = self.configured(
            f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            dead_letters = true
            on_refused = "end"
            """
        )
        await daemon.when_said("Consuming from")
        await self.channel.queue_delete(queue)
        self.assertEqual(await daemon.when_ended(), ExitStatus.NO_QUEUE, daemon.output)
        [line] = daemon.said("Ending with exit status 66")
        self.assertIn(f"no queue '{queue}'", line)

    async def test_publisher(self) -> None:
        """
        Handlers publish by the publisher that they are given, in the reactor's thread
        and in others, and it is counted.
        """
        queue = await self.queue()
        for name in (f"{queue}-thread", f"{queue}-next"):
            await self.channel.queue_declare(name)
        [port] = free_ports(1)
        daemon = self.configured(
            f"""
            admin = "tcp:{port}:interface=127.0.0.1"
            metrics = true
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:forward"
            dead_letters = true
            [[consumers]]
            queue = "{queue}-thread"
            handler = "{HANDLERS}:forward_in_thread"
            dead_letters = true
            in_thread = true
            """
        )
        await self.publish(queue, ["a", "b"], f"{queue}-next")
        await self.publish(f"{queue}-thread", ["c", "d"], f"{queue}-next")
        await daemon.when_said("done ", 4)
        _, page = await self.get(port, "/metrics")
        self.assertIn('txamqp091_confirms_total{publisher="handlers"} 4.0', page)
        await self.publish(queue, ["e"], "nowhere")
        await daemon.when_said("dead-lettered by its queue")
        _, page = await self.get(port, "/metrics")
        self.assertIn('txamqp091_returns_total{publisher="handlers"} 2.0', page)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertEqual(sorted(await self.left(f"{queue}-next")), [*"abcd"])

    async def test_hangup(self) -> None:
        """
        SIGHUP changes what can change; a file that is wrong changes nothing.
        """
        queue = await self.queue()
        text = f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:never"
            dead_letters = true
            prefetch = 1
            """
        daemon = self.configured(text, "--shutdown-timeout=0.2")
        await self.publish(queue, "abc")
        await daemon.when_said("begun ", 1)
        self.write(text.replace("prefetch = 1", "prefetch = 'many'"))
        daemon.signal(signal.SIGHUP)
        await daemon.when_said("nothing has changed")
        self.assertIn("consumers[0].prefetch: is a string", daemon.output)
        self.write(text.replace("prefetch = 1", "prefetch = 2"))
        daemon.signal(signal.SIGHUP)
        # Besides the one that it had, which goes on.
        await daemon.when_said("begun ", 2)
        self.assertEqual(await daemon.terminate(), ExitStatus.UNFINISHED)
        self.assertEqual(sorted(await self.left(queue)), ["a", "b", "c"])

    async def test_systemd(self) -> None:
        """
        systemd hears that it is ready, that it lives, and that it stops.
        """
        queue = await self.queue()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        if not hasattr(socket, "AF_UNIX"):
            raise SkipTest("there are no such sockets here")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listening.close)
        listening.settimeout(120)
        listening.bind(f"{folder}/notify")
        text = f"""
            [[consumers]]
            queue = "{queue}"
            handler = "{HANDLERS}:plain"
            dead_letters = true
            """
        daemon = self.configured(
            text, NOTIFY_SOCKET=f"{folder}/notify", WATCHDOG_USEC="200000"
        )
        heard: set[str] = set()
        while {"READY=1", "WATCHDOG=1"} - heard:
            data = await in_thread(listening.recv, 4096)
            heard.add(data.decode().split("\n")[0])
        daemon.signal(signal.SIGTERM)
        while "STOPPING=1" not in heard:
            data = await in_thread(listening.recv, 4096)
            heard.add(data.decode().split("\n")[0])
        self.assertEqual(await daemon.when_ended(), 0)
