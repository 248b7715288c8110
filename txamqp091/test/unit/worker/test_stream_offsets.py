# -*- test-case-name: txamqp091.test.unit.worker.test_stream_offsets -*-
"""
The daemon reads streams: where it begins, what it makes of messages that fail, and that
it goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.arguments import stream_queue
from txamqp091.daemon.consumer_settings import ConsumerSettings
from txamqp091.daemon.settings_loading import load
from txamqp091.daemon.settings_schema import Problem
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService
from txamqp091.test.support.service_case import Place, ServiceCase
from txamqp091.testing.memory import MemoryBroker
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.counts import Counts
from txamqp091.worker.failure_policy import Halt, OnError, Reject, Requeue, Retry
from txamqp091.worker.stream_offsets import OffsetFile, OffsetFileInUse, StreamOffset


class SettingTests(SynchronousTestCase):
    """
    What a place in a stream may be.
    """

    def settings(self, text: str, environ: dict[str, str] = {}) -> ConsumerSettings:  # noqa: B006
        """
        A file's only consumer.
        """
        path = Path(self.mktemp())
        path.write_text(
            '[[consumers]]\nqueue = "log"\nhandler = "m:f"\non_error = "reject"\n'
            + text
        )
        [consumer] = load(str(path), environ, {}).consumers
        return consumer

    def test_forms(self) -> None:
        """
        It has many forms, in a file and in a variable.
        """
        noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
        for text, value in (
            ('"first"', "first"),
            ('"next"', "next"),
            ("0", 0),
            ("42", 42),
            ('"42"', 42),
            ("2026-01-31T12:00:00Z", noon),
            ('"2026-01-31T12:00:00Z"', noon),
            ('"2026-01-31T13:00:00+01:00"', noon),
            ('"7D"', "7D"),
        ):
            consumer = self.settings(f"stream_offset = {text}")
            self.assertEqual(consumer.arguments(), {"x-stream-offset": value})
            if text.startswith('"'):
                variable = {"TXAMQP091_CONSUMERS_LOG_STREAM_OFFSET": text.strip('"')}
                again = self.settings("", variable)
                self.assertEqual(again.stream_offset, consumer.stream_offset)

    def test_none(self) -> None:
        """
        Anything else is refused, with its place.
        """
        for text, words in (
            ('"begin"', "is 'begin': neither first, last, next, nor"),
            ("-1", "is -1: neither"),
            ("true", "is True: neither"),
            ("1.5", "is 1.5: neither"),
            ("2026-01-31T12:00:00", "is 2026-01-31 12:00:00, without a time zone"),
            ("[1]", "is [1]: neither"),
        ):
            problem = self.assertRaises(
                Problem, self.settings, f"stream_offset = {text}"
            )
            self.assertIn(f"consumers[0].stream_offset: {words}", str(problem))

    def test_streams(self) -> None:
        """
        A stream is treated as one.
        """
        offset = 'stream_offset = "first"\n'
        stream = "[[queues]]\nname = 'log'\narguments = {x-queue-type = 'stream'}"
        for text, words in (
            (stream, "stream_offset: is missing: the queue 'log' is a stream"),
            ("offset_file = 'a'", "offset_file: is for streams"),
            (f"{offset}declare = true", "declare: is not for streams"),
            (f"{offset}[[queues]]\nname = 'log'", "the queue 'log' is not a stream"),
            (f"{offset}prefetch = 0", "prefetch: is 0, and a stream needs a limit"),
            (f"{offset}retry = {{parking = 'p'}}", "retry: is not for streams"),
        ):
            problem = self.assertRaises(Problem, self.settings, text)
            self.assertIn(words, str(problem))
        variable = {"TXAMQP091_CONSUMERS_LOG_ON_ERROR": "once-more"}
        problem = self.assertRaises(Problem, self.settings, offset, variable)
        self.assertIn('on_error: has to be "reject"', str(problem))
        consumer = self.settings(f"{offset}priority = 3\n{stream}")
        self.assertEqual(
            consumer.arguments(), {"x-priority": 3, "x-stream-offset": "first"}
        )


class FileTests(SynchronousTestCase):
    """
    Tests for `OffsetFile`.
    """

    def setUp(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.path = folder / "log.offset"

    def file(self) -> OffsetFile:
        """
        The file, read.
        """
        return OffsetFile(str(self.path), "log")

    def test_keeps(self) -> None:
        """
        It keeps a place, and nothing besides it is left.
        """
        file = self.file()
        file.check()
        self.assertIsNone(file.kept)
        file.keep(None)
        self.assertFalse(self.path.exists())
        file.keep(42)
        self.assertEqual((file.kept, self.file().kept), (42, 42))
        self.assertEqual(
            [each.name for each in self.path.parent.iterdir()], ["log.offset"]
        )

    def test_once(self) -> None:
        """
        The same place is not written twice.
        """
        file = self.file()
        file.keep(42)
        self.path.unlink()
        file.keep(42)
        self.assertFalse(self.path.exists())

    def test_others(self) -> None:
        """
        A file that is something else is refused: to begin anew would be to read all of
        it once more.
        """
        for text, words in (
            ("", "is no file with an offset"),
            ("42", "is no file with an offset"),
            ('{"queue": "log"}', "is no file with an offset"),
            ('{"queue": "other", "offset": 3}', "is of the queue 'other'"),
            ('{"queue": "log", "offset": -3}', "has no offset"),
            ('{"queue": "log", "offset": true}', "has no offset"),
        ):
            self.path.write_text(text)
            error = self.assertRaises(ValueError, self.file)
            self.assertIn(words, str(error))
        self.path.write_bytes(b"\xff\xe4")
        error = self.assertRaises(ValueError, self.file)
        self.assertEqual(str(error), f"{self.path} is no file with an offset")

    def test_other_process(self) -> None:
        """
        The file that a consumer of another process uses is refused, until it stops.
        """
        if sys.platform == "win32":
            raise SkipTest("Windows has no lock of that kind")
        # Only a file that was opened once more can contend for the lock.
        from fcntl import LOCK_EX, LOCK_NB, flock

        file = self.file()
        with open(f"{self.path}.lock", "w") as other:
            flock(other, LOCK_EX)
            error = self.assertRaises(OffsetFileInUse, file.claim)
            self.assertEqual(
                str(error),
                f"{self.path} is in use: a consumer of another process keeps its "
                "offset there; give each consumer a file of its own",
            )
        file.claim()
        file.claim()
        with open(f"{self.path}.lock", "w") as other:
            self.assertRaises(BlockingIOError, flock, other, LOCK_EX | LOCK_NB)
            file.release()
            flock(other, LOCK_EX | LOCK_NB)

    def test_no_lock(self) -> None:
        """
        Where nothing can be written, there is no lock, and claiming does not fail.
        """
        file = OffsetFile(str(self.path.parent / "no" / "file"), "log")
        file.claim()
        file.release()

    def test_link(self) -> None:
        """
        A link where the new file is to be is replaced, and its target is not written.
        """
        target = self.path.parent / "target"
        target.write_text("mine")
        beside = self.path.with_name("log.offset.new")
        beside.symlink_to(target)
        file = self.file()
        file.keep(42)
        self.assertEqual(self.file().kept, 42)
        self.assertEqual(target.read_text(), "mine")
        self.assertFalse(self.path.is_symlink())

    def test_folder(self) -> None:
        """
        A folder that is not there is told of before it is needed, and once when it is.
        """
        file = OffsetFile(str(self.path.parent / "no" / "file"), "log")
        self.assertIn(
            "cannot be written", str(self.assertRaises(ValueError, file.check))
        )
        with capturedLogs() as events:
            file.keep(1)
            file.keep(2)
        [line] = map(formatEvent, events)
        self.assertIn("is not kept in", line)
        self.assertIn("No such file or directory", line)
        os.mkdir(self.path.parent / "no")
        file.keep(3)
        self.assertEqual(file.kept, 3)


class StreamCase(ServiceCase):
    """
    A consumer of a stream of ten messages.
    """

    version = "4.3.0"

    def setUp(self) -> None:
        super().setUp()
        self.broker = MemoryBroker(self.reactor, version=self.version)
        self.endpoint = Place(self.broker)
        self.broker.declare_queue("log", arguments=stream_queue())
        for number in range(10):
            self.publish(number)
        self.path = Path(self.mktemp()).absolute()
        self.seen: list[int] = []
        self.failing: dict[int, Exception] = {}
        self.waiting: dict[int, Deferred[None]] = {}

    def publish(self, number: int) -> None:
        """
        Publish one more message.
        """
        self.broker.publish("", "log", b"%d" % number)

    def handle(self, delivery: Delivery) -> Deferred[None] | None:
        """
        A handler.
        """
        number = int(delivery.body)
        self.seen.append(number)
        if number in self.failing:
            raise self.failing[number]
        return self.waiting.get(number)

    def consumer(
        self, client: AMQPClientService | None = None, **changes: Any
    ) -> ConsumerService:
        """
        A consumer that consumes.
        """
        options: dict[str, Any] = {
            "queue": "log",
            "handler": "a:b",
            "stream_offset": StreamOffset("first"),
            "on_error": OnError.REJECT,
            "prefetch": 4,
            **changes,
        }
        settings = ConsumerSettings(**options)
        consumer = ConsumerService(
            client or self.service(),
            "log",
            self.handle,
            options=settings.handler_options(),
            prefetch=settings.prefetch,
            arguments=settings.arguments(),
            offsets=OffsetFile(str(self.path), "log"),
        )
        consumer.startService()
        self.addCleanup(self.stop, consumer)
        self.turn()
        return consumer

    def stop(self, consumer: ConsumerService) -> None:
        """
        Stop it.
        """
        stopping = consumer.stopService()
        self.passes(31)
        self.successResultOf(stopping)

    def kept(self) -> int:
        """
        What the file has.
        """
        return int(json.loads(self.path.read_text())["offset"])


class ReadingTests(StreamCase):
    """
    A stream is read, and the place in it kept.
    """

    def test_resumes(self) -> None:
        """
        After a reconnect, and after a restart, it goes on where it was.
        """
        consumer = self.consumer()
        self.assertEqual(self.seen, [*range(10)])
        self.cut()
        self.publish(10)
        self.passes(6)
        self.assertEqual(self.seen, [*range(11)])
        self.assertEqual(self.kept(), 11)
        self.stop(consumer)
        self.publish(11)
        self.consumer()
        self.assertEqual(self.seen, [*range(12)])

    def test_kept_in_time(self) -> None:
        """
        The place is kept every few seconds: a process that is killed reads no more
        than that twice.
        """
        self.consumer()
        self.assertFalse(self.path.exists())
        self.passes(5)
        self.assertEqual(self.kept(), 10)
        self.publish(10)
        self.passes(5)
        self.assertEqual(self.kept(), 11)

    def test_not_done(self) -> None:
        """
        What is not done when it is stopped is read again: the place is that of the
        oldest message that is not done.
        """
        self.waiting[2] = Deferred()
        consumer = self.consumer()
        self.assertEqual(self.seen, [*range(10)])
        stopping = consumer.stopService()
        self.passes(31)
        self.successResultOf(stopping)
        self.assertEqual(consumer.counts.unfinished, 1)
        self.assertEqual(self.kept(), 2)
        del self.waiting[2], self.seen[:]
        self.consumer()
        self.assertEqual(self.seen, [*range(2, 10)])

    def test_not_begun(self) -> None:
        """
        So is what no handler has begun with.
        """
        self.waiting[1] = Deferred()
        consumer = self.consumer(concurrency=1)
        self.assertEqual(self.seen, [0, 1])
        stopping = consumer.stopService()
        self.turn()
        self.waiting[1].callback(None)
        self.turn()
        self.successResultOf(stopping)
        self.assertEqual(self.kept(), 2)
        self.assertEqual(len(self.endpoint.links), 1)

    def test_passed_over(self) -> None:
        """
        What fails is passed over, whatever the handler said, and costs nothing.
        """
        self.failing = {
            1: ValueError("no"),
            3: Reject("no"),
            5: Requeue("later"),
            7: Retry("later"),
        }
        consumer = self.consumer()
        self.assertEqual(self.seen, [*range(10)])
        self.assertEqual(consumer.counts, Counts(acknowledged=6, rejected=4))
        self.stop(consumer)
        self.assertEqual(self.kept(), 10)
        self.assertEqual(len(self.endpoint.links), 1)
        self.flushLoggedErrors(ValueError)

    def test_halts(self) -> None:
        """
        It may end there instead, and the next start begins with what failed.
        """
        self.failing = {5: ValueError("no")}
        consumer = self.consumer(on_error=OnError.HALT, prefetch=1)
        self.failureResultOf(consumer.when_ended(), Halt)
        self.assertEqual(self.seen, [*range(6)])
        self.stop(consumer)
        self.assertEqual(self.kept(), 5)
        self.failing.clear()
        self.consumer()
        self.assertEqual(self.seen[6:], [5, 6, 7, 8, 9])
        self.assertEqual(len(self.endpoint.links), 2)
        self.flushLoggedErrors(ValueError)

    def test_prefetch(self) -> None:
        """
        Another prefetch limit loses no message, and repeats none.
        """
        self.waiting[3] = Deferred()
        consumer = self.consumer(prefetch=2)
        consumer.change(consumer.runner.options, 8)
        self.turn()
        self.waiting[3].callback(None)
        self.passes(1)
        self.assertEqual(self.seen, [*range(10)])
        self.assertTrue(consumer.subscribed)
        self.assertEqual(self.broker.queue("log").consumers, 1)
        self.assertEqual(len(self.endpoint.links), 1)


class OldReadingTests(ReadingTests):
    """
    The same with a broker that closes the connection for a reject.
    """

    version = "3.10.8"
