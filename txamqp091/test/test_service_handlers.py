# -*- test-case-name: txamqp091.test.test_service_handlers -*-
"""
Handlers: found by name, run, and answered for.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.consumer import Consumer, Handler
from txamqp091.errors import UndecodableProperty
from txamqp091.message import Delivery
from txamqp091.service.handlers import HandlerNotFound, Tally, Work, load_handler
from txamqp091.test.peer import Peer
from txamqp091.wire.properties import Properties
from txamqp091.wire.spec import BasicAck, BasicNack, BasicReject


class Shop:
    """
    Things that a name can lead to.
    """

    def take(self, delivery: Delivery) -> None:
        """
        A method, for a handler.
        """


def take(delivery: Delivery) -> None:
    """
    A handler.
    """


def none() -> None:
    """
    A function that takes no delivery.
    """


def generator(delivery: Delivery) -> Generator[Any, Any, None]:
    """
    A function that lacks ``inlineCallbacks``.
    """
    yield


async def async_generator(delivery: Delivery) -> AsyncIterator[None]:
    """
    A coroutine function with a ``yield`` too much.
    """
    yield


@inlineCallbacks
def inline(delivery: Delivery) -> Generator[Any, Any, None]:
    """
    A handler with ``inlineCallbacks``.
    """
    yield


shop = Shop()
HERE = __name__


class LoadTests(SynchronousTestCase):
    """
    From a name to a handler.
    """

    def problem(self, name: str) -> str:
        """
        What is said about a name that leads to no handler.
        """
        text = str(self.assertRaises(HandlerNotFound, load_handler, name))
        self.assertNotIn("\n", text)
        return text

    def module(self, source: str) -> str:
        """
        The name of a new module with this text.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        name = f"txamqp091_{folder.parent.name}_{folder.name}".replace(".", "_")
        name = "".join(each for each in name if each.isalnum() or each == "_")
        (folder / f"{name}.py").write_text(source)
        self.patch(sys, "path", [*sys.path, str(folder)])
        self.addCleanup(sys.modules.pop, name, None)
        return name

    def test_found(self) -> None:
        """
        A function, a method of an object and a builtin are handlers.
        """
        self.assertIs(load_handler(f"{HERE}:take"), take)
        self.assertEqual(load_handler(f"{HERE}:shop.take"), shop.take)
        self.assertIs(load_handler(f"{HERE}:inline"), inline)
        self.assertIs(load_handler("builtins:print"), print)

    def test_form(self) -> None:
        """
        A name without a colon, or that Python would not take, is said to be none.
        """
        for name in ("", ":", "a", "a.b", "a:", ":b", "a:b:c", "a b:c", "a/b:c", ".:b"):
            self.assertRaises(ValueError, load_handler, name)

    def test_no_module(self) -> None:
        """
        The part of the name is told that is not there.
        """
        self.assertIn("no module nowhere_at_all,", self.problem("nowhere_at_all:take"))
        self.assertIn("txamqp091.nowhere,", self.problem("txamqp091.nowhere.at:all"))

    def test_no_function(self) -> None:
        """
        The module is told, with its file.
        """
        problem = self.problem(f"{HERE}:give")
        self.assertIn(f"{HERE} has no give (", problem)
        self.assertIn("test_service_handlers.py", problem)
        self.assertIn("has no shop.give", self.problem(f"{HERE}:shop.give"))

    def test_broken_module(self) -> None:
        """
        A module that fails is told, with the error and its place, in one line.
        """
        for source, words in {
            "import nowhere_at_all": "No module named 'nowhere_at_all'",
            "x = 1\nraise ValueError('a\\nb')": "ValueError: a",
            "def f(:": "SyntaxError",
            "import sys\nsys.exit(3)": "ended the program, with 3",
        }.items():
            name = self.module(source)
            problem = self.problem(f"{name}:take")
            self.assertIn(f"the module {name} cannot be imported", problem)
            self.assertIn(words, problem)
            if "sys" not in source:
                self.assertIn(f"{name}.py, line {source.count(chr(10)) + 1}", problem)

    def test_unfit(self) -> None:
        """
        What would take no message, or do nothing with it, is refused.
        """
        for name, words in {
            "HERE": "is a str, not a function",
            "Shop": "is a class",
            "none": "cannot be called with a delivery",
            "generator": "is a generator function",
            "async_generator": "is a generator function",
        }.items():
            self.assertIn(words, self.problem(f"{HERE}:{name}"))


class WorkTests(SynchronousTestCase):
    """
    A handler is run, and its message answered for.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.peer.handshake()
        self.channel = self.peer.open_channel()
        self.events = self.enterContext(capturedLogs())

    def work(self, handler: Handler) -> Work:
        """
        A handler's work, as a consumer's.
        """
        work = Work(handler, "work", lambda: self.channel.is_open)
        consuming: Deferred[Consumer] = self.channel.basic_consume("work", work.take)
        self.peer.serve()
        self.successResultOf(consuming)
        return work

    def deliver(self, **details: Any) -> None:
        """
        Deliver a message.
        """
        self.peer.deliver(1, "ctag-1.1", 1, b"the secret body", **details)

    def failed(self, kind: type[Exception] = ValueError) -> str:
        """
        What is logged of a failure, apart from the traceback; once.
        """
        self.assertEqual(len(self.flushLoggedErrors(kind)), 1)
        [event] = [each for each in self.events if "log_failure" in each]
        self.assertNotIn("secret", repr(event))
        return formatEvent(event)

    def succeeding(self) -> list[Callable[[Delivery], object]]:
        """
        Handlers of every kind.
        """

        async def coroutine(delivery: Delivery) -> None:
            pass

        return [take, shop.take, inline, coroutine, lambda delivery: 42]

    def test_success(self) -> None:
        """
        The message is acknowledged, whatever kind of handler it was.
        """
        for handler in self.succeeding():
            self.setUp()
            work = self.work(handler)
            self.deliver()
            self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
            self.assertEqual(work.tally, Tally(acknowledged=1))
            self.assertEqual(work.running, 0)

    def test_later(self) -> None:
        """
        It is acknowledged when the handler has finished, not before.
        """
        result: Deferred[None] = Deferred()

        async def handler(delivery: Delivery) -> None:
            await result

        work = self.work(handler)
        self.deliver()
        idle = work.when_idle()
        self.assertEqual((self.peer.listen(), work.running), ([], 1))
        self.assertNoResult(idle)
        result.callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.successResultOf(idle)
        self.successResultOf(work.when_idle())

    def failing(self) -> list[Callable[[Delivery], object]]:
        """
        Handlers of every kind that fail.
        """

        def plain(delivery: Delivery) -> None:
            raise ValueError("no")

        async def coroutine(delivery: Delivery) -> None:
            raise ValueError("no")

        def deferred(delivery: Delivery) -> Deferred[None]:
            failing: Deferred[None] = Deferred()
            failing.errback(ValueError("no"))
            return failing

        return [plain, coroutine, deferred]

    def test_first_failure(self) -> None:
        """
        A message goes back the first time that its handler fails.  The log says which
        message it was, and nothing of what is in it.
        """
        for handler in self.failing():
            self.setUp()
            work = self.work(handler)
            self.deliver(properties=Properties(message_id="m\n1"), exchange="shop")
            self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
            self.assertEqual(work.tally, Tally(requeued=1))
            self.assertEqual(
                self.failed(),
                "A handler failed with a message of the queue work: it goes back, to "
                "be tried once more (delivery tag 1, message-id 'm\\n1', exchange "
                "'shop', routing key 'work')",
            )

    def test_second_failure(self) -> None:
        """
        A message is rejected the second time.
        """
        for handler in self.failing():
            self.setUp()
            work = self.work(handler)
            self.deliver(redelivered=True)
            self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
            self.assertEqual(work.tally, Tally(rejected=1))
            self.assertIn("it was rejected", self.failed())

    def test_undecodable(self) -> None:
        """
        Criterion 6: a message with a property that cannot be decoded is rejected at
        once, and logged once; the consumer goes on.
        """

        def handler(delivery: Delivery) -> None:
            raise UndecodableProperty("headers", "broken", b"")

        work = self.work(handler)
        self.deliver()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, False))
        self.assertIn("it was rejected", self.failed(UndecodableProperty))
        self.assertEqual(work.tally, Tally(rejected=1))
        self.assertTrue(self.channel.is_open)

    def test_exit(self) -> None:
        """
        A handler that calls ``sys.exit`` has failed, and ended nothing.
        """
        work = self.work(lambda delivery: sys.exit(3))
        self.deliver()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual(work.tally, Tally(requeued=1))

    def test_foreign_awaitable(self) -> None:
        """
        What nobody would wait for is a failure: an acknowledgement would come before
        the work.
        """

        class Future:
            def __await__(self) -> Generator[Any, Any, None]:
                yield

        self.work(lambda delivery: Future())
        self.deliver()
        self.assertEqual(self.peer.expect(BasicReject), BasicReject(1, True))
        self.assertIn("it goes back", self.failed(TypeError))

    def test_answers_itself(self) -> None:
        """
        A handler that has answered is respected, whether it succeeds or fails then.
        """

        def fails(delivery: Delivery) -> None:
            delivery.nack(requeue=False)
            raise ValueError("no")

        work = self.work(lambda delivery: delivery.nack(requeue=False))
        self.deliver()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=False))
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(work.tally, Tally(settled=1))

        self.setUp()
        work = self.work(fails)
        self.deliver()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=False))
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(work.tally, Tally(settled=1))
        self.assertIn("it had been answered for", self.failed())

    def test_stale(self) -> None:
        """
        What ends after its channel has is answered for by the broker, which delivers
        it again.
        """
        results: list[Deferred[None]] = []

        def handler(delivery: Delivery) -> Deferred[None]:
            results.append(Deferred())
            return results[-1]

        work = self.work(handler)
        self.deliver()
        self.deliver()
        self.peer.drop()
        results[0].callback(None)
        results[1].errback(ValueError("no"))
        self.assertEqual(work.tally, Tally(stale=2))
        self.assertIn("it will come again", self.failed())

    def test_abandoned(self) -> None:
        """
        A handler that is given up is cancelled, after its message was handed back;
        what it says then counts no more.
        """
        outcomes: list[str] = []

        async def handler(delivery: Delivery) -> None:
            try:
                await Deferred()
            except CancelledError:
                outcomes.append("cancelled")
                if delivery.redelivered:
                    return
                raise

        work = self.work(handler)
        self.deliver()
        self.deliver(redelivered=True)
        work.abandon()
        self.assertEqual(outcomes, ["cancelled", "cancelled"])
        self.assertEqual(work.tally, Tally(unfinished=2))
        self.assertEqual(work.running, 0)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.peer.expect(BasicNack)
        self.assertEqual(self.peer.listen(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_unreadable_identity(self) -> None:
        """
        A message whose message-id cannot be read is named by the rest.
        """
        self.work(self.failing()[0])
        # Flags for message-id alone, and a string that is longer than what follows.
        raw = (0x0080).to_bytes(2, "big") + b"\xff"
        self.deliver(properties=Properties.from_wire(raw))
        self.assertIn("message-id unreadable", self.failed())


class TallyTests(SynchronousTestCase):
    """
    The numbers, in words.
    """

    def test_words(self) -> None:
        """
        What there was none of is left out, if it is rare.
        """
        self.assertEqual(
            str(Tally()), "0 acknowledged, 0 requeued, 0 rejected, 0 unfinished"
        )
        self.assertEqual(
            str(Tally(1, 2, 3, 4, 5, 6)),
            "1 acknowledged, 2 requeued, 3 rejected, 4 answered by the handler itself, "
            "5 done but not acknowledged in time, 6 unfinished",
        )
