# -*- test-case-name: txamqp091.test.unit.service.test_rpc -*-
"""
Tests for `txamqp091.service.rpc`: calls, their answers, and all that keeps one from
the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from txamqp091.errors import (
    CallFailed,
    CallTimeout,
    ConnectionClosed,
    ConnectionLost,
    Nacked,
    NotFound,
    Returned,
    UndecodableProperty,
)
from txamqp091.message import Delivery
from txamqp091.service.client import AMQPClientService
from txamqp091.service.rpc import ERROR_HEADER, RPCClient, RPCServer
from txamqp091.test.support.service_case import ServiceCase
from txamqp091.wire.properties import Properties


def missing(request: Delivery) -> bytes:
    """
    A handler that fails.
    """
    raise KeyError(request.body)


class RPCCase(ServiceCase):
    """
    A test case with a queue for requests, and a client.
    """

    client_service: AMQPClientService

    def client(self, start: bool = True) -> RPCClient:
        """
        A client, over a service of its own.
        """
        self.broker.declare_queue("ask", arguments={"x-dead-letter-exchange": "dead"})
        self.broker.declare_exchange("dead", "fanout")
        self.broker.declare_queue("dead")
        self.broker.bind_queue("dead", "dead")
        self.client_service = self.service(start=start)
        client = RPCClient(self.client_service)
        self.turn()
        return client

    def server(self, handler: Callable[[Delivery], Any], **options: Any) -> RPCServer:
        """
        A server, over a service of its own.
        """
        self.broker.declare_queue("ask", arguments={"x-dead-letter-exchange": "dead"})
        server = RPCServer(self.service(), "ask", handler, **options)
        self.turn()
        return server

    def ask(
        self, client: RPCClient, body: str = "?", timeout: float = 10.0
    ) -> Deferred[Delivery]:
        """
        Call whoever is behind the queue.
        """
        return client.call("", "ask", body, timeout=timeout)

    def answer_by_hand(self, number: int = 0, body: bytes = b"!") -> None:
        """
        Answer a request, as somebody else may.
        """
        request = self.broker.queue("ask").messages[number].properties
        self.broker.publish(
            "",
            request.reply_to or "",
            body,
            Properties(correlation_id=request.correlation_id),
        )
        self.turn()


class CallTests(RPCCase):
    """
    A call and its answer.
    """

    def test_answer(self) -> None:
        """
        The answer comes to whoever has asked.
        """
        client = self.client()
        self.server(lambda request: request.body.upper())
        asked = [self.ask(client, text) for text in ("a", "b", "c")]
        self.assertEqual(client.pending, 3)
        self.turn()
        bodies = [self.successResultOf(each).body for each in asked]
        self.assertEqual(bodies, [b"A", b"B", b"C"])
        self.assertEqual(client.pending, 0)
        self.assertEqual(self.broker.queue("ask").messages, [])

    def test_any_order(self) -> None:
        """
        Answers may come in any order, and belong to their own questions.
        """
        client = self.client()
        first, second = self.ask(client, "1"), self.ask(client, "2")
        self.turn()
        self.answer_by_hand(1, b"two")
        self.assertNoResult(first)
        self.answer_by_hand(0, b"one")
        self.assertEqual(self.successResultOf(first).body, b"one")
        self.assertEqual(self.successResultOf(second).body, b"two")

    def test_kinds_of_answers(self) -> None:
        """
        An answer is text or bytes, or nothing; it may have properties; and it may come
        later.
        """
        client = self.client()

        async def coroutine(request: Delivery) -> str:
            await deferLater(self.reactor, 2)
            return "late"

        def handler(request: Delivery) -> Any:
            answers: dict[bytes, Callable[[], Any]] = {
                b"text": lambda: "text",
                b"bytes": lambda: bytearray(b"bytes"),
                b"none": lambda: None,
                b"more": lambda: ("more", Properties(type="kind")),
                b"later": lambda: coroutine(request),
                b"deferred": lambda: deferLater(self.reactor, 1, lambda: "deferred"),
            }
            return answers[request.body]()

        self.server(handler)
        asked = {
            kind: self.ask(client, kind)
            for kind in ("text", "bytes", "none", "more", "later", "deferred")
        }
        self.passes(3)
        answers = {kind: self.successResultOf(each) for kind, each in asked.items()}
        got = {kind: answer.body for kind, answer in answers.items()}
        self.assertEqual(
            got,
            {
                "text": b"text",
                "bytes": b"bytes",
                "none": b"",
                "more": b"more",
                "later": b"late",
                "deferred": b"deferred",
            },
        )
        self.assertEqual(answers["more"].properties.type, "kind")

    def test_request(self) -> None:
        """
        The request has the properties that it was given, but for those that it needs.
        """
        client = self.client()
        properties = Properties(type="kind", correlation_id="mine", priority=2)
        self.assertWaits(client.call("", "ask", b"", properties, timeout=1))
        self.turn()
        sent = self.broker.queue("ask").messages[0].properties
        self.assertEqual((sent.type, sent.priority), ("kind", 2))
        self.assertEqual(sent.correlation_id, "1")
        self.assertIn("amq.rabbitmq.reply-to.", sent.reply_to or "")

    def test_cannot_be_sent(self) -> None:
        """
        What AMQP cannot carry fails.
        """
        client = self.client()
        wrong: Any = {"type": "x"}
        self.failureResultOf(client.call("", "ask", b"", wrong, timeout=1))
        self.failureResultOf(client.call("", "ask", wrong, timeout=1), TypeError)
        raw = Properties.from_wire(b"\x00\x80\xff")
        failed = client.call("", "ask", b"", raw, timeout=1)
        self.failureResultOf(failed, UndecodableProperty)
        self.assertEqual(client.pending, 0)

    def test_repr(self) -> None:
        """
        It shows how many calls are pending.
        """
        client = self.client()
        self.assertWaits(self.ask(client))
        self.assertEqual(repr(client), "<RPCClient, 1 calls pending>")


class NoAnswerTests(RPCCase):
    """
    A call without an answer.
    """

    def test_deadline(self) -> None:
        """
        When the time is up, the call has failed; an answer that comes later is counted,
        and dropped.
        """
        client = self.client()
        asked = self.ask(client, timeout=5)
        self.passes(4.5)
        self.assertNoResult(asked)
        self.passes(0.5)
        error = self.failureResultOf(asked, CallTimeout).value
        self.assertIsInstance(error, TimeoutError)
        self.assertIn("5 s", str(error))
        self.answer_by_hand()
        self.assertEqual((client.late, client.pending), (1, 0))

    def test_strange_answers(self) -> None:
        """
        An answer that belongs to nobody, or that cannot be read, is dropped.
        """
        client = self.client()
        asked = self.ask(client)
        self.turn()
        address = self.broker.queue("ask").messages[0].properties.reply_to or ""
        for strange in (
            Properties(),
            Properties(correlation_id="77"),
            Properties.from_wire(b"\x04\x00\xff"),
        ):
            self.broker.publish("", address, b"", strange)
        self.turn()
        self.assertEqual(client.late, 3)
        self.assertNoResult(asked)
        bad_headers = Properties.from_wire(b"\x24\x00\x00\x00\x00\x03\x01aZ\x011")
        self.broker.publish("", address, b"odd", bad_headers)
        self.turn()
        self.assertEqual(self.successResultOf(asked).body, b"odd")

    def test_no_queue(self) -> None:
        """
        When there is no queue for the request, the call fails at once.
        """
        client = self.client()
        asked = client.call("", "nowhere", b"", timeout=10)
        self.turn()
        self.failureResultOf(asked, Returned)

    def test_nacked(self) -> None:
        """
        Nor is there any use in waiting when the broker could not keep the request.
        """
        client = self.client()
        self.broker.refuse_publishes(1)
        asked = self.ask(client)
        self.turn()
        self.failureResultOf(asked, Nacked)

    def test_no_exchange(self) -> None:
        """
        When there is no exchange, all that is pending fails with the reason, and later
        calls work.
        """
        client = self.client()
        asked = [self.ask(client), client.call("missing", "", b"", timeout=10)]
        self.turn()
        for each in asked:
            self.failureResultOf(each, NotFound)
        self.server(lambda request: b"!")
        again = self.ask(client)
        self.passes(3)
        self.assertEqual(self.successResultOf(again).body, b"!")

    def test_cancelled(self) -> None:
        """
        A call that is cancelled is forgotten; its answer is dropped.
        """
        client = self.client()
        asked = self.ask(client)
        self.turn()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(client.pending, 0)
        self.answer_by_hand()
        self.assertEqual(client.late, 1)

    def test_link_is_lost(self) -> None:
        """
        When the link goes, what has left fails at once; what has not, waits.
        """
        client = self.client()
        confirmed = self.ask(client)
        self.turn()
        self.broker.hold_confirms()
        unconfirmed = self.ask(client)
        self.turn()
        self.cut()
        self.broker.release_confirms()
        for each in (confirmed, unconfirmed):
            self.failureResultOf(each, ConnectionLost)
        waits = self.ask(client)
        gone = self.ask(client, timeout=0.5)
        cancelled = self.ask(client)
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.assertEqual(client.pending, 2)
        self.server(lambda request: b"!")
        self.passes(0.5)
        self.failureResultOf(gone, CallTimeout)
        self.passes(5)
        self.assertEqual(self.successResultOf(waits).body, b"!")
        self.assertEqual(len(self.broker.published), 6)  # and three answers

    def test_blocked(self) -> None:
        """
        A call that is over while the broker blocks is not made when it goes on.
        """
        client = self.client()
        self.broker.block()
        self.turn()
        asked = self.ask(client, timeout=3)
        self.passes(3)
        self.failureResultOf(asked, CallTimeout)
        self.broker.unblock()
        self.turn()
        self.assertEqual(self.broker.queue("ask").messages, [])

    def test_before_the_connection(self) -> None:
        """
        A call waits for the first connection, within its time.
        """
        client = self.client(start=False)
        asked, gone = self.ask(client), self.ask(client, timeout=1)
        self.passes(1)
        self.failureResultOf(gone, CallTimeout)
        self.server(lambda request: b"!")
        self.client_service.startService()
        self.turn()
        self.successResultOf(asked)

    def test_service_stops(self) -> None:
        """
        When the service is stopped, what is pending fails.
        """
        client = self.client()
        asked = [self.ask(client)]
        self.turn()
        self.endpoint.refusing = True
        self.cut()
        asked.append(self.ask(client))
        self.successResultOf(self.client_service.stopService())
        for each in asked:
            self.failureResultOf(each, ConnectionClosed)

    def test_close(self) -> None:
        """
        When the client is closed, what is pending fails, and there are no more calls.
        """
        client = self.client()
        asked = [self.ask(client)]
        self.turn()
        client.close()
        client.close()
        asked.append(self.ask(client))
        self.turn()
        for each in asked:
            self.failureResultOf(each, ConnectionClosed)
        waits = self.client(start=False)
        pending = self.ask(waits)
        waits.close()
        self.failureResultOf(pending, ConnectionClosed)


class ServerTests(RPCCase):
    """
    What becomes of a request.
    """

    def test_failure_is_told(self) -> None:
        """
        When the handler fails, that is logged, and the caller is told.
        """
        client = self.client()
        server = self.server(missing)
        asked = self.ask(client)
        self.turn()
        error = self.failureResultOf(asked, CallFailed).value
        self.assertEqual(error.problem, "KeyError: b'?'")
        self.assertEqual(error.delivery.headers, {ERROR_HEADER: "KeyError: b'?'"})
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((server.failures, server.answered), (1, 1))
        self.assertEqual(self.broker.queue("ask").messages, [])

    def test_any_failure(self) -> None:
        """
        A handler that raises what is meant to end a program has failed, too: the caller
        is told, and the connection stays.
        """
        client = self.client()
        for error in (SystemExit, KeyboardInterrupt, CancelledError):

            def handler(request: Delivery, error: type[BaseException] = error) -> bytes:
                raise error("no")

            server = self.server(handler)
            asked = self.ask(client)
            self.turn()
            failure = self.failureResultOf(asked, CallFailed).value
            self.assertEqual(failure.problem, f"{error.__name__}: no")
            self.assertEqual(len(self.flushLoggedErrors(error)), 1)
            server.stop()
            self.turn()
        self.assertEqual(len(self.endpoint.links), 4)  # one for each service

    def test_failure_is_not_told(self) -> None:
        """
        Or the request goes to the dead letters.
        """
        client = self.client()
        self.server(missing, on_error="reject")
        asked = self.ask(client, timeout=2)
        self.passes(2)
        self.failureResultOf(asked, CallTimeout)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        dead = self.broker.queue("dead").messages
        self.assertEqual([each.body for each in dead], [b"?"])

    def test_no_answer(self) -> None:
        """
        What cannot be an answer is a failure too.
        """
        client = self.client()
        answers: list[Any] = [3, ("", {}), "\udc00", ("", Properties(type="x" * 256))]
        self.server(lambda request: answers[int(request.body)])
        asked = [self.ask(client, f"{n}") for n in range(4)]
        self.turn()
        for each in asked:
            self.failureResultOf(each, CallFailed)
        self.assertEqual(len(self.flushLoggedErrors()), 4)

    def test_nobody_to_tell(self) -> None:
        """
        A request that names nobody to answer to is dealt with.
        """
        got: list[bytes] = []
        self.server(lambda request: got.append(request.body))
        self.broker.publish("", "ask", b"do")
        self.turn()
        self.assertEqual(got, [b"do"])
        self.assertEqual(self.broker.queue("ask").messages, [])

    def test_unreadable_request(self) -> None:
        """
        A request whose address cannot be read goes to the dead letters, and reaches no
        handler.
        """
        self.client()
        got: list[Delivery] = []
        self.server(got.append)
        self.broker.publish("", "ask", b"?", Properties.from_wire(b"\x02\x00\xff"))
        self.turn()
        self.assertEqual(got, [])
        self.assertEqual(len(self.broker.queue("dead").messages), 1)
        self.assertEqual(len(self.flushLoggedErrors(UndecodableProperty)), 1)

    def test_acknowledged_after_the_answer(self) -> None:
        """
        A request is acknowledged when the broker has its answer, and comes again if the
        link goes before.
        """
        client = self.client()
        seen: list[bool] = []

        def handler(request: Delivery) -> bytes:
            seen.append(request.redelivered)
            return b"!"

        self.server(handler)
        self.turn()
        server_link = self.link
        asked = self.ask(client)
        # The client's request is confirmed; the server's answer is not.
        put = self.broker.put

        def hold(vhost: Any, message: Any) -> tuple[bool, bool]:
            if message.routing_key.startswith("amq.rabbitmq.reply-to"):
                self.broker.hold_confirms()
            return put(vhost, message)

        self.patch(self.broker, "put", hold)
        self.turn()
        self.successResultOf(asked)
        self.assertEqual(self.broker.queue("ask").unacked, 1)
        self.patch(self.broker, "put", put)
        server_link.cut()
        self.turn()
        self.broker.release_confirms()
        self.passes(5)
        self.assertEqual(seen, [False, True])
        self.assertEqual(self.broker.queue("ask").messages, [])
        self.assertEqual(client.late, 1)

    def test_stop(self) -> None:
        """
        A server that is stopped answers what it has, and takes no more.
        """
        client = self.client()
        answers: list[Deferred[bytes]] = []

        def handler(request: Delivery) -> Deferred[bytes]:
            answers.append(Deferred())
            return answers[-1]

        server = self.server(handler, prefetch=1)
        asked = [self.ask(client), self.ask(client)]
        self.turn()
        stopped = server.stop()
        self.turn()
        self.assertNoResult(stopped)
        answers[0].callback(b"!")
        self.turn()
        self.successResultOf(asked[0])
        self.successResultOf(stopped)
        self.assertWaits(asked[1])
        self.assertEqual(len(self.broker.queue("ask").messages), 1)

    def test_wrong_use(self) -> None:
        """
        A handler is a function, and choices are those that there are.
        """
        service = self.service(start=False)
        wrong: Any = "handler"
        with self.assertRaises(TypeError):
            RPCServer(service, "ask", wrong)
        with self.assertRaises(ValueError):
            RPCServer(service, "ask", print, on_error=wrong)

    def test_repr(self) -> None:
        """
        It shows its queue.
        """
        server = self.server(lambda request: b"")
        self.assertEqual(repr(server), "<RPCServer of ask, 0 answered>")
