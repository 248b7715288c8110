# -*- test-case-name: txamqp091.test.rabbitmq.test_daemon -*-
"""
The real daemon, run by the real ``twistd``, against a real RabbitMQ: how it treats
messages, how it stops (criterion 21), and how it says why it ended (criterion 20).
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater

from txamqp091._version import __version__
from txamqp091.channel import Channel
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.message import Message
from txamqp091.test.support.daemons import DaemonProcess
from txamqp091.test.support.integration import RabbitTestCase, every_broker
from txamqp091.test.support.processes import free_ports
from txamqp091.wire.properties import Properties
from txamqp091.worker.counts import Counts

#: How often a daemon is stopped in the middle of its work.
DRAINS = 20 if os.environ.get("TXAMQP091_NIGHTLY") else 3

CANARY = "canary-password"

HANDLERS = "txamqp091.test.support.daemon_handlers"
HANDLER = f"{HANDLERS}:plain"


def reactor_in_use() -> Any:
    """
    The reactor: it must not be imported before it was chosen.
    """
    from twisted.internet import reactor

    return reactor


class DaemonTestCase(RabbitTestCase):
    """
    A queue, and daemons that consume from it.
    """

    async def queue(self, dead_letters: bool = False, kind: str = "classic") -> str:
        """
        Declare a queue, and perhaps one more for its dead letters.
        """
        self.channel: Channel = await self.open_channel()
        await self.channel.confirm_select()
        name = self.queue_name()
        arguments = {"x-queue-type": kind}
        if dead_letters:
            await self.channel.queue_declare(f"{name}-dead")
            arguments |= {
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": f"{name}-dead",
            }
        await self.channel.queue_declare(name, arguments=arguments)
        return name

    async def publish(self, queue: str, ids: Iterable[str], body: str = "good") -> None:
        """
        Publish messages with these ids, and wait for the broker to have them.
        """
        await self.channel.publish_many(
            Message("", queue, body, Properties(message_id=each, delivery_mode=2))
            for each in ids
        )

    def daemon(
        self,
        queue: str,
        handler: str,
        *arguments: str,
        uri: str | None = None,
        runner: str = "twistd",
        **environment: str,
    ) -> DaemonProcess:
        """
        Start a daemon, which rejects dead messages; it has gone when the test ends.
        """
        variable = re.sub("[^A-Z0-9]", "_", queue.upper())
        daemon = DaemonProcess(
            "--queue",
            queue,
            "--handler",
            f"txamqp091.test.support.daemon_handlers:{handler}",
            *arguments,
            runner=runner,
            environment={
                "TXAMQP091_URI": uri or self.uri,
                f"TXAMQP091_CONSUMERS_{variable}_DEAD_LETTERS": "true",
                **environment,
            },
        )
        self.addCleanup(daemon.end)
        return daemon

    async def consuming(
        self, queue: str, handler: str, *arguments: str, runner: str = "twistd"
    ) -> DaemonProcess:
        """
        Start a daemon, and wait until it consumes.
        """
        daemon = self.daemon(queue, handler, *arguments, runner=runner)
        await daemon.when_said("Consuming from the queue")
        return daemon

    async def left(self, queue: str) -> list[str]:
        """
        The ids of all messages that a queue still has, now that nobody consumes from
        it; they are taken out.
        """

        async def unused() -> bool:
            declared = await self.channel.queue_declare(queue, passive=True)
            return declared.consumer_count == 0

        # The broker may still be busy with the end of a consumer.
        while not await unused():
            await deferLater(reactor_in_use(), 0.02)
        ids = []
        while delivery := await self.channel.basic_get(queue):
            ids.append(str(delivery.properties.message_id))
            delivery.ack()
        return ids

    async def letters(self, queue: str, count: int) -> list[str]:
        """
        The ids of so many messages that another queue sends to this one; they are taken
        out.
        """
        while (await self.channel.queue_declare(queue, passive=True)).message_count < (
            count
        ):
            await deferLater(reactor_in_use(), 0.02)
        return await self.left(queue)

    def done(self, daemon: DaemonProcess) -> list[str]:
        """
        The ids of the messages that a daemon has done.
        """
        said = daemon.said("done ")
        return [each.removeprefix("done ").partition(" (")[0] for each in said]


@every_broker
class DaemonTests(DaemonTestCase):
    """
    What becomes of messages.
    """

    async def test_consumes(self) -> None:
        """
        Every message is given to the handler, and acknowledged.  On SIGTERM the
        daemon ends with 0.
        """
        queue = await self.queue()
        ids = [str(each) for each in range(200)]
        await self.publish(queue, ids)
        daemon = await self.consuming(queue, "plain")
        await daemon.when_said("done ", 200)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertEqual(self.done(daemon), ids)
        self.assertEqual(await self.left(queue), [])
        counts = Counts(acknowledged=200)
        self.assertEqual(daemon.said("Stopped"), [f"Stopped (SIGTERM): {counts}"])
        self.assertEqual(daemon.errors, "")

    async def test_twist(self) -> None:
        """
        ``twist`` runs it just as well, and tells the same exit status.
        """
        queue = await self.queue()
        await self.publish(queue, "ab")
        daemon = await self.consuming(queue, "plain", runner="twist")
        await daemon.when_said("done ", 2)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertEqual(await self.left(queue), [])
        daemon = self.daemon("no-such-queue", "plain", runner="twist")
        self.assertEqual(await daemon.when_ended(), ExitStatus.NO_QUEUE)

    async def test_declares(self) -> None:
        """
        With ``--declare`` it makes its queue.
        """
        name = self.queue_name()
        daemon = await self.consuming(name, "plain", "--declare")
        channel = await self.open_channel()
        self.assertEqual((await channel.queue_declare(name)).consumer_count, 1)
        self.assertEqual(await daemon.terminate(), 0)

    async def test_failures(self) -> None:
        """
        A message whose handler fails is kept for a while, and its handler called again;
        then it goes to the dead letters.  The log names it, and does not quote it.
        """
        queue = await self.queue(dead_letters=True)
        daemon = await self.consuming(queue, "plain")
        await self.publish(queue, ["poison"], body="bad secret")
        await self.publish(queue, ["good"])
        await daemon.when_said("done good")
        await daemon.when_said("dead-lettered by its queue")
        self.assertEqual(await daemon.terminate(), 0)
        self.assertEqual(await self.left(queue), [])
        self.assertEqual(await self.letters(f"{queue}-dead", 1), ["poison"])
        self.assertIn("1 retried, 1 rejected", daemon.said("Stopped")[0])
        [first, second] = daemon.said("The handler failed")
        self.assertIn("its handler is called again in 5 s", first)
        for line in (first, second):
            self.assertIn(f"a message from queue {queue}: ", line)
            self.assertRegex(line, r"\(delivery tag \d+, message-id 'poison', ")
            self.assertIn(f"exchange '', routing key '{queue}')", line)
        self.assertNotIn("secret", daemon.output)
        self.assertEqual(daemon.output.count("ValueError: no such order"), 2)

    async def test_dead_letter_queue(self) -> None:
        """
        The daemon of README.rst, while all handlers fail: it discards no message.
        Each is in the queue, or in the dead-letter queue, with the error.
        """
        self.channel = await self.open_channel()
        await self.channel.confirm_select()
        queue = self.queue_name()
        daemon = DaemonProcess(
            *("--queue", queue, "--declare", "--handler", f"{HANDLERS}:always_bad"),
            environment={"TXAMQP091_URI": self.uri},
        )
        self.addCleanup(daemon.end)
        await daemon.when_said("Consuming from the queue")
        await self.publish(queue, map(str, range(300)))
        await daemon.when_said("dead-lettered to", 50)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        left, dead = await self.left(queue), await self.left(f"{queue}.dead")
        self.assertGreaterEqual(len(dead), 50)
        self.assertEqual(sorted([*left, *dead]), sorted(map(str, range(300))))

    async def test_given_back(self) -> None:
        """
        A message that a stopped daemon has given back has not failed: the handler of
        the next one is called twice before it is dead.
        """
        for kind in ("classic", "quorum"):
            queue = await self.queue(dead_letters=True, kind=kind)
            await self.publish(queue, "abc")
            first = await self.consuming(queue, "never", "--shutdown-timeout=0.1")
            await first.when_said("begun ", 3)
            self.assertEqual(await first.terminate(), ExitStatus.UNFINISHED)
            second = await self.consuming(queue, "always_bad")
            await second.when_said("its handler is called again", 3)
            self.assertEqual(await second.terminate(), 0)
            self.assertIn("0 rejected", second.said("Stopped")[0])
            self.assertEqual(sorted(await self.left(queue)), [*"abc"])

    async def test_no_place_for_the_dead(self) -> None:
        """
        Without a place for dead messages it does not start, and says what to do.
        """
        queue = await self.queue()
        daemon = DaemonProcess(
            *("--queue", queue, "--handler", HANDLER),
            environment={"TXAMQP091_URI": self.uri},
        )
        self.addCleanup(daemon.end)
        self.assertEqual(await daemon.when_ended(), ExitStatus.CONFIG)
        self.assertIn("failed messages would be discarded", daemon.errors)
        self.assertIn("dead_letters = true", daemon.errors)


@every_broker
class DrainTests(DaemonTestCase):
    """
    Criterion 21: how it stops.
    """

    async def test_drains(self) -> None:
        """
        Stopped in the middle of its work, again and again: what it has done does not
        come back, and what it has not is still there.
        """
        queue = await self.queue()
        for _ in range(DRAINS):
            ids = {str(each) for each in range(300)}
            await self.publish(queue, ids)
            daemon = await self.consuming(queue, "brisk", "--prefetch", "20")
            await daemon.when_said("done ", 30)
            self.assertEqual(await daemon.terminate(), 0, daemon.output)
            done, left = self.done(daemon), await self.left(queue)
            self.assertEqual(len(done), len(set(done)))
            self.assertEqual({*done, *left}, ids)
            self.assertEqual(len(done) + len(left), len(ids))
            [line] = daemon.said("Stopped")
            self.assertIn(f" {len(done)} acknowledged, 0 requeued", line)

    async def test_publishing(self) -> None:
        """
        The same with handlers that publish: what it has done was confirmed, and what
        it has not is still there.
        """
        queue = await self.queue()
        await self.channel.queue_declare(f"{queue}-next")
        for _ in range(DRAINS):
            ids = {str(each) for each in range(300)}
            await self.publish(queue, ids, f"{queue}-next")
            daemon = await self.consuming(queue, "brisk_forward", "--prefetch", "20")
            await daemon.when_said("done ", 30)
            self.assertEqual(await daemon.terminate(), 0, daemon.output)
            done, left = self.done(daemon), await self.left(queue)
            self.assertEqual(sorted([*done, *left]), sorted(ids))
            self.assertEqual(sorted(await self.left(f"{queue}-next")), sorted(done))

    async def test_running_handlers(self) -> None:
        """
        Handlers that were running when the signal came finish, and their messages
        are acknowledged.
        """
        queue = await self.queue()
        await self.publish(queue, "abcdef")
        daemon = await self.consuming(queue, "until_stopped", "--prefetch", "4")
        await daemon.when_said("begun ", 4)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        self.assertEqual(sorted(self.done(daemon)), ["a", "b", "c", "d"])
        self.assertEqual(await self.left(queue), ["e", "f"])

    async def test_limit(self) -> None:
        """
        Handlers that do not finish in time are given up; their messages go back, and
        the exit status tells.
        """
        queue = await self.queue()
        await self.publish(queue, "ab")
        daemon = await self.consuming(queue, "never", "--shutdown-timeout", "0.2")
        await daemon.when_said("begun ", 2)
        self.assertEqual(await daemon.terminate(), ExitStatus.UNFINISHED)
        self.assertEqual(await self.left(queue), ["a", "b"])
        self.assertEqual(len(daemon.said("Gave up a handler")), 2)

    async def test_second_signal(self) -> None:
        """
        A second signal ends the waiting.
        """
        queue = await self.queue()
        await self.publish(queue, "a")
        daemon = await self.consuming(queue, "never")
        await daemon.when_said("begun ")
        daemon.signal(signal.SIGTERM)
        await daemon.when_said("Waiting for 1 running handlers")
        daemon.signal(signal.SIGINT)
        self.assertEqual(await daemon.when_ended(), ExitStatus.UNFINISHED)
        self.assertEqual(await self.left(queue), ["a"])


@every_broker
class EndTests(DaemonTestCase):
    """
    Criterion 20: each end has one line, and a status of its own.
    """

    async def assert_ends(self, daemon: DaemonProcess, status: ExitStatus) -> str:
        """
        The daemon ends with a status, and says one line about it.
        """
        self.assertEqual(await daemon.when_ended(), status, daemon.output)
        [line] = daemon.said(f"Ending with exit status {int(status)}: ")
        self.assertNotIn("Traceback", daemon.output)
        self.assertEqual(daemon.errors, "")
        self.assertNotIn(CANARY, daemon.output)
        return line

    async def test_wrong_password(self) -> None:
        """
        A password that the broker refuses.
        """
        uri = self.uri.replace("guest:guest@", "guest@")
        daemon = self.daemon("work", "plain", uri=uri, TXAMQP091_PASSWORD=CANARY)
        line = await self.assert_ends(daemon, ExitStatus.NO_PERMISSION)
        self.assertIn("403 ACCESS_REFUSED", line)

    async def test_virtual_host(self) -> None:
        """
        A virtual host that does not exist.
        """
        daemon = self.daemon("work", "plain", uri=f"{self.uri}-other")
        line = await self.assert_ends(daemon, ExitStatus.NO_VHOST)
        self.assertIn("-other", line)

    async def test_no_broker(self) -> None:
        """
        Nobody listens.
        """
        [port] = free_ports(1)
        uri = f"amqp://127.0.0.1:{port}"
        daemon = self.daemon("work", "plain", "--give-up-after=0.5", uri=uri)
        line = await self.assert_ends(daemon, ExitStatus.UNAVAILABLE)
        self.assertIn(f"127.0.0.1:{port}", line)

    async def test_no_queue(self) -> None:
        """
        A queue that does not exist.
        """
        daemon = self.daemon("no-such-queue", "plain")
        line = await self.assert_ends(daemon, ExitStatus.NO_QUEUE)
        self.assertIn("404 NOT_FOUND - no queue 'no-such-queue'", line)

    async def test_refused(self) -> None:
        """
        A queue that is there, and is another than the one to declare.
        """
        channel = await self.open_channel()
        name = self.queue_name()
        await channel.queue_declare(name, auto_delete=True)
        daemon = self.daemon(name, "plain", "--declare")
        line = await self.assert_ends(daemon, ExitStatus.REFUSED)
        self.assertIn("406 PRECONDITION_FAILED", line)

    async def test_not_amqp(self) -> None:
        """
        A port where TLS is spoken.
        """
        uri = f"amqp://localhost:{self.node.tls_port}"
        daemon = self.daemon("work", "plain", uri=uri)
        self.assertEqual(await daemon.when_ended(), ExitStatus.PROTOCOL)
        self.assertEqual(len(daemon.said("Ending with exit status 76: ")), 1)

    async def test_halt(self) -> None:
        """
        A handler ends it, and the message goes back.
        """
        queue = await self.queue()
        await self.publish(queue, "a")
        daemon = self.daemon(queue, "halting")
        line = await self.assert_ends(daemon, ExitStatus.HALTED)
        self.assertIn(f"the consumer {queue} raised Halt: the disk is full", line)
        self.assertEqual(await self.left(queue), ["a"])


@every_broker
class SurvivalTests(DaemonTestCase):
    """
    What it does not end with.
    """

    async def test_lost(self) -> None:
        """
        The connection is lost: what was in work comes again, on a new one.
        """
        queue = await self.queue()
        await self.publish(queue, "a")
        proxy = self.proxy()
        uri = self.uri.replace(str(self.node.port), str(proxy.port))
        daemon = self.daemon(queue, "until_stopped", uri=uri)
        await daemon.when_said("begun a")
        proxy.reset()
        await daemon.when_said("begun a", 2)
        self.assertEqual(await daemon.terminate(), 0, daemon.output)
        line = daemon.said("Stopped")[0]
        self.assertIn("1 acknowledged", line)
        self.assertIn("1 handled but not acknowledged in time", line)
        self.assertEqual(await self.left(queue), [])

    async def test_queue_deleted(self) -> None:
        """
        Criterion 20: its queue is deleted, and made again.
        """
        queue = await self.queue()
        daemon = await self.consuming(queue, "plain")
        await self.channel.queue_delete(queue)
        await daemon.when_said("is not subscribed, and subscribes again")
        await self.channel.queue_declare(queue)
        await self.publish(queue, "a")
        await daemon.when_said("done a")
        self.assertEqual(await daemon.terminate(), 0, daemon.output)


class CommandLineTests(DaemonTestCase):
    """
    What ends before there is a broker.
    """

    def setUp(self) -> None:
        """
        No broker is needed.
        """
        self.uri = f"amqp://guest:{CANARY}@localhost"

    async def assert_refused(self, daemon: DaemonProcess, status: ExitStatus) -> str:
        """
        The daemon ends with a status, and says one line about it, on stderr.
        """
        self.assertEqual(await daemon.when_ended(), status, daemon.errors)
        self.assertEqual(daemon.output, "")
        self.assertEqual(daemon.errors.count("\n"), 1, daemon.errors)
        self.assertNotIn(CANARY, daemon.errors)
        return daemon.errors

    async def test_problems(self) -> None:
        """
        A missing handler, a bad URI and a bad option have a line and a status each.
        """
        for status, daemon in [
            (ExitStatus.NO_HANDLER, self.daemon("work", "nothing")),
            (ExitStatus.CONFIG, self.daemon("work", "plain", uri=f"x://{CANARY}")),
            (ExitStatus.USAGE, self.daemon("work", "plain", "--prefetch=many")),
        ]:
            await self.assert_refused(daemon, status)

    async def test_canary(self) -> None:
        """
        Criterion 28: the password is in nothing that the daemon says.
        """
        [port] = free_ports(1)
        uri = f"amqp://u:{CANARY}@127.0.0.1:{port}"
        daemon = self.daemon("work", "plain", "--give-up-after=0.5", uri=uri)
        self.assertEqual(await daemon.when_ended(), ExitStatus.UNAVAILABLE)
        self.assertNotIn(CANARY, daemon.output + daemon.errors)

    async def test_container(self) -> None:
        """
        A pid file that was left behind, with the number that the process has again,
        stops no daemon in the foreground.
        """
        [port] = free_ports(1)
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "twistd.pid").write_text(f"{os.getpid()}")
        daemon = DaemonProcess(
            *("--queue=work", "--declare", "--handler", HANDLER, "--give-up-after=0.5"),
            runner="twistd -n",
            environment={"TXAMQP091_URI": f"amqp://127.0.0.1:{port}"},
            directory=folder,
        )
        self.addCleanup(daemon.end)
        self.assertEqual(await daemon.when_ended(), ExitStatus.UNAVAILABLE)
        self.assertEqual((folder / "twistd.pid").read_text(), f"{os.getpid()}")

    async def test_signals(self) -> None:
        """
        SIGHUP finds a file with a relative path, also if twistd has changed the
        folder; SIGUSR1 opens a log file again that was moved.
        """
        [port] = free_ports(1)
        folder = Path(self.mktemp())
        (folder / "run").mkdir(parents=True)
        text = f"""
            uri = "amqp://127.0.0.1:{port}"
            [[consumers]]
            queue = "work"
            handler = "{HANDLER}"
            dead_letters = true
            """
        (folder / "consumer.toml").write_text(text)
        daemon = DaemonProcess(
            *("--config", "consumer.toml"),
            runner="twistd -n --rundir=run --logfile=log",
            directory=folder,
        )
        self.addCleanup(daemon.end)
        log, moved = folder / "log", folder / "log.1"
        await self.written(daemon, log, "No connection to ")
        (folder / "consumer.toml").write_text(f"stalled_after = 7\n{text}")
        daemon.signal(signal.SIGHUP)
        await self.written(daemon, log, "SIGHUP: changed: stalled_after")
        log.rename(moved)
        daemon.signal(signal.SIGUSR1)
        await self.written(daemon, log, "")
        daemon.signal(signal.SIGHUP)
        await self.written(daemon, log, "SIGHUP: nothing has changed")
        self.assertEqual(await daemon.terminate(), 0)
        self.assertEqual((daemon.output, daemon.errors), ("", ""))
        self.assertNotIn("SIGHUP: nothing has changed", moved.read_text())

    async def written(self, daemon: DaemonProcess, path: Path, text: str) -> None:
        """
        Wait until the log file of a daemon has a text.
        """
        while not path.exists() or text not in path.read_text():
            self.assertIsNone(daemon.status, daemon.errors)
            await deferLater(reactor_in_use(), 0.05)

    async def test_not_utf8(self) -> None:
        """
        Bytes that are not UTF-8 have a line and a status, wherever they are.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        secret = f"amqp://u:{CANARY}\udce4@h"
        (folder / "uri").write_bytes(secret.encode("utf-8", "surrogateescape"))
        (folder / "consumer.toml").write_bytes(b"name = 'a\xe4'")
        needed = ["--queue", "work", "--handler", HANDLER, "--declare"]
        for name, arguments, variables in (
            ("--uri", [*needed, "--uri", secret], {}),
            ("--queue", [*needed[2:], "--queue", "a\udce4"], {}),
            ("TXAMQP091_URI", needed, {"TXAMQP091_URI": secret}),
            ("TXAMQP091_PASSWORD", needed, {"TXAMQP091_PASSWORD": f"{CANARY}\udce4"}),
            ("TXAMQP091_NAME", needed, {"TXAMQP091_NAME": "\udce4"}),
            (
                "TXAMQP091_URI_FILE",
                needed,
                {"TXAMQP091_URI": "", "TXAMQP091_URI_FILE": str(folder / "uri")},
            ),
            ("consumer.toml", ["--config", str(folder / "consumer.toml")], {}),
        ):
            environment = {"TXAMQP091_URI": "amqp://h", **variables}
            daemon = DaemonProcess(*arguments, environment=environment)
            self.addCleanup(daemon.end)
            line = await self.assert_refused(daemon, ExitStatus.CONFIG)
            self.assertIn(name, line)
            self.assertIn("is not UTF-8", line)

    async def test_version(self) -> None:
        """
        ``--version`` prints the version.
        """
        daemon = DaemonProcess("--version")
        self.addCleanup(daemon.end)
        self.assertEqual(await daemon.when_ended(), 0)
        self.assertTrue(daemon.output.startswith(f"txamqp091 {__version__} (Twisted "))
