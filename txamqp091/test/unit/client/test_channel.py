# -*- test-case-name: txamqp091.test.unit.client.test_channel -*-
"""
Tests for the verbs of `txamqp091.channel`: what is sent, and what comes of it.
The life of a channel is in ``test_channel_life``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from txamqp091.channel import Channel
from txamqp091.errors import ChannelClosed, EncodeError, LocalProtocolError
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.channel_case import ChannelCase
from txamqp091.wire import spec
from txamqp091.wire.method import METHODS, Method

Call = Callable[[Channel], Deferred[Any]]

#: What is called, what is sent, and the answer, which the Deferred fires with.
ASKING: list[tuple[Call, Method, Method]] = [
    (
        lambda c: c.exchange_declare("logs", "topic", arguments={"a": 1}),
        spec.ExchangeDeclare(0, "logs", "topic", durable=True, arguments={"a": 1}),
        spec.ExchangeDeclareOk(),
    ),
    (
        lambda c: c.exchange_declare("logs", "fanout", True, False, True, True),
        spec.ExchangeDeclare(0, "logs", "fanout", True, False, True, True),
        spec.ExchangeDeclareOk(),
    ),
    (
        lambda c: c.exchange_delete("logs", True),
        spec.ExchangeDelete(0, "logs", True),
        spec.ExchangeDeleteOk(),
    ),
    (
        lambda c: c.exchange_bind("to", "from", "key", {"x-match": "all"}),
        spec.ExchangeBind(0, "to", "from", "key", arguments={"x-match": "all"}),
        spec.ExchangeBindOk(),
    ),
    (
        lambda c: c.exchange_unbind("to", "from", "key", {"x-match": "all"}),
        spec.ExchangeUnbind(0, "to", "from", "key", arguments={"x-match": "all"}),
        spec.ExchangeUnbindOk(),
    ),
    (
        lambda c: c.queue_declare("work", arguments={"x-max-length": 3}),
        spec.QueueDeclare(0, "work", durable=True, arguments={"x-max-length": 3}),
        spec.QueueDeclareOk("work", 7, 2),
    ),
    (
        lambda c: c.queue_declare(exclusive=True),
        spec.QueueDeclare(exclusive=True),
        spec.QueueDeclareOk("amq.gen-1"),
    ),
    (
        lambda c: c.queue_declare("work", True, True, True, True),
        spec.QueueDeclare(0, "work", True, True, True, True),
        spec.QueueDeclareOk("work"),
    ),
    (
        lambda c: c.queue_bind("work", "logs", "*.error", {"a": "b"}),
        spec.QueueBind(0, "work", "logs", "*.error", arguments={"a": "b"}),
        spec.QueueBindOk(),
    ),
    (
        lambda c: c.queue_unbind("work", "logs", "*.error", {"a": "b"}),
        spec.QueueUnbind(0, "work", "logs", "*.error", {"a": "b"}),
        spec.QueueUnbindOk(),
    ),
    (
        lambda c: c.queue_purge("work"),
        spec.QueuePurge(0, "work"),
        spec.QueuePurgeOk(12),
    ),
    (
        lambda c: c.queue_delete("work", True, True),
        spec.QueueDelete(0, "work", True, True),
        spec.QueueDeleteOk(3),
    ),
    (
        lambda c: c.basic_qos(0, 20),
        spec.BasicQos(0, 20, False),
        spec.BasicQosOk(),
    ),
    (
        lambda c: c.basic_cancel("nobody"),
        spec.BasicCancel("nobody", False),
        spec.BasicCancelOk("nobody"),
    ),
    (
        lambda c: c.basic_recover(),
        spec.BasicRecover(True),
        spec.BasicRecoverOk(),
    ),
    (lambda c: c.confirm_select(), spec.ConfirmSelect(), spec.ConfirmSelectOk()),
    (lambda c: c.tx_select(), spec.TxSelect(), spec.TxSelectOk()),
    (lambda c: c.tx_commit(), spec.TxCommit(), spec.TxCommitOk()),
    (lambda c: c.tx_rollback(), spec.TxRollback(), spec.TxRollbackOk()),
    (lambda c: c.flow(False), spec.ChannelFlow(False), spec.ChannelFlowOk(False)),
    (
        lambda c: c.access_request(),
        spec.AccessRequest("/data", False, True, True, True, True),
        spec.AccessRequestOk(1),
    ),
]

#: What has no answer: what is called, and what is sent.
TELLING: list[tuple[Call, Method]] = [
    (lambda c: c.basic_ack(4), spec.BasicAck(4, False)),
    (lambda c: c.basic_ack(0, True), spec.BasicAck(0, True)),
    (lambda c: c.basic_nack(4, True, False), spec.BasicNack(4, True, False)),
    (lambda c: c.basic_nack(4), spec.BasicNack(4, False, True)),
    (lambda c: c.basic_reject(4), spec.BasicReject(4, True)),
    (lambda c: c.basic_reject(4, False), spec.BasicReject(4, False)),
    (lambda c: c.basic_recover_async(), spec.BasicRecoverAsync(True)),
]

#: What the broker is told not to answer: called, sent, and our own answer.
NO_WAIT: list[tuple[Call, Method, Method]] = [
    (
        lambda c: c.confirm_select(no_wait=True),
        spec.ConfirmSelect(True),
        spec.ConfirmSelectOk(),
    ),
    (
        lambda c: c.basic_cancel("nobody", no_wait=True),
        spec.BasicCancel("nobody", True),
        spec.BasicCancelOk(),
    ),
    (
        lambda c: c.exchange_declare("logs", no_wait=True),
        spec.ExchangeDeclare(0, "logs", durable=True, no_wait=True),
        spec.ExchangeDeclareOk(),
    ),
    (
        lambda c: c.exchange_delete("logs", no_wait=True),
        spec.ExchangeDelete(0, "logs", no_wait=True),
        spec.ExchangeDeleteOk(),
    ),
    (
        lambda c: c.exchange_bind("to", "from", no_wait=True),
        spec.ExchangeBind(0, "to", "from", no_wait=True),
        spec.ExchangeBindOk(),
    ),
    (
        lambda c: c.exchange_unbind("to", "from", no_wait=True),
        spec.ExchangeUnbind(0, "to", "from", no_wait=True),
        spec.ExchangeUnbindOk(),
    ),
    (
        lambda c: c.queue_declare("work", no_wait=True),
        spec.QueueDeclare(0, "work", durable=True, no_wait=True),
        spec.QueueDeclareOk(),
    ),
    (
        lambda c: c.queue_bind("work", "logs", no_wait=True),
        spec.QueueBind(0, "work", "logs", no_wait=True),
        spec.QueueBindOk(),
    ),
    (
        lambda c: c.queue_purge("work", no_wait=True),
        spec.QueuePurge(0, "work", no_wait=True),
        spec.QueuePurgeOk(),
    ),
    (
        lambda c: c.queue_delete("work", no_wait=True),
        spec.QueueDelete(0, "work", no_wait=True),
        spec.QueueDeleteOk(),
    ),
]

EVERY: list[Call] = [
    *[call for call, _, _ in ASKING],
    *[call for call, _ in TELLING],
    *[call for call, _, _ in NO_WAIT],
]

_LONG = "n" * 256
_ANY: Any = object()

#: What cannot be sent.
WRONG: list[tuple[Call, type[Exception]]] = [
    (lambda c: c.exchange_declare(_LONG), EncodeError),
    (lambda c: c.exchange_declare("x", _ANY), EncodeError),
    (lambda c: c.exchange_declare("x", durable=_ANY), EncodeError),
    (lambda c: c.exchange_delete(_ANY), EncodeError),
    (lambda c: c.exchange_bind("a", "b", _LONG), EncodeError),
    (lambda c: c.exchange_unbind("a", "b", arguments=_ANY), EncodeError),
    (lambda c: c.queue_declare(_ANY), EncodeError),
    (lambda c: c.queue_declare("q", arguments=_ANY), EncodeError),
    (lambda c: c.queue_declare("q", arguments={"a": _ANY}), EncodeError),
    (lambda c: c.queue_declare("q", arguments={"a": 1 << 64}), EncodeError),
    (lambda c: c.queue_declare("q", arguments={"a": float("nan")}), EncodeError),
    (lambda c: c.queue_declare("q", arguments={_LONG: 1}), EncodeError),
    (lambda c: c.queue_declare("q", no_wait=_ANY), EncodeError),
    (lambda c: c.queue_bind("q", _LONG), EncodeError),
    (lambda c: c.queue_unbind("q", "e", _LONG), EncodeError),
    (lambda c: c.queue_purge(_LONG), EncodeError),
    (lambda c: c.queue_delete(_LONG), EncodeError),
    (lambda c: c.basic_qos(0, 65536), EncodeError),
    (lambda c: c.basic_qos(-1), EncodeError),
    (lambda c: c.basic_cancel(_LONG), EncodeError),
    (lambda c: c.basic_cancel(_ANY), EncodeError),
    (lambda c: c.basic_get(_LONG), EncodeError),
    (lambda c: c.basic_get(_ANY), EncodeError),
    (lambda c: c.basic_ack(-1), EncodeError),
    (lambda c: c.basic_ack(1 << 64), EncodeError),
    (lambda c: c.basic_nack(_ANY), EncodeError),
    (lambda c: c.basic_reject(1, _ANY), EncodeError),
    (lambda c: c.basic_recover(_ANY), EncodeError),
    (lambda c: c.basic_recover_async(_ANY), EncodeError),
    (lambda c: c.confirm_select(0), LocalProtocolError),
    (lambda c: c.confirm_select(_ANY), TypeError),
    (lambda c: c.basic_consume(_LONG, print), EncodeError),
    (lambda c: c.basic_consume("q", _ANY), TypeError),
    (lambda c: c.basic_consume("q", print, consumer_tag=_LONG), EncodeError),
    (lambda c: c.basic_consume("q", print, consumer_tag=_ANY), EncodeError),
    (lambda c: c.basic_consume("q", print, prefetch=-1), LocalProtocolError),
    (lambda c: c.basic_consume("q", print, prefetch=65536), LocalProtocolError),
    (lambda c: c.basic_consume("q", print, prefetch=_ANY), TypeError),
    (lambda c: c.basic_consume("q", print, prefetch=1.5), TypeError),  # type: ignore[arg-type]
    (lambda c: c.basic_consume("q", print, arguments={"a": _ANY}), EncodeError),
    (lambda c: c.consume("q", arguments=_ANY), EncodeError),
    (lambda c: c.flow(_ANY), EncodeError),
    (lambda c: c.access_request(_LONG), EncodeError),
    (lambda c: c.close(1 << 16), EncodeError),
    (lambda c: c.close(200, "t" * 256), EncodeError),
]


class VerbTests(ChannelCase):
    """
    What each verb sends.
    """

    def test_asking(self) -> None:
        """
        A verb sends its method, and its Deferred fires with the broker's answer.
        """
        for call, question, reply in ASKING:
            deferred = call(self.channel)
            self.assertEqual(self.heard(), [question])
            self.assertNoResult(deferred)
            self.peer.send(1, reply)
            self.assertEqual(self.successResultOf(deferred), reply)

    def test_telling(self) -> None:
        """
        A verb that has no answer fires when it was sent.
        """
        for call, method in TELLING:
            self.assertIsNone(self.successResultOf(call(self.channel)))
            self.assertEqual(self.heard(), [method])

    def test_no_wait(self) -> None:
        """
        With ``no_wait`` the Deferred fires at once, and no answer is waited for.
        """
        for call, question, answer in NO_WAIT:
            self.assertEqual(self.successResultOf(call(self.channel)), answer)
            self.assertEqual(self.heard(), [question])
        declared = self.channel.queue_declare("next")
        self.peer.serve()
        self.assertEqual(self.successResultOf(declared).queue, "next")

    def test_every_method_has_a_verb(self) -> None:
        """
        `Channel` has a verb for each method that the specification lets a client
        send on a channel.
        """
        mine = [each for each in METHODS.values() if each.identity[0] != 10]
        answers = {reply for each in mine for reply in each.replies}
        from_broker = {spec.BasicDeliver, spec.BasicReturn}
        for each in mine:
            if each in answers or each in from_broker:
                continue
            name = each.name.replace(".", "_").replace("-", "_")
            if each is spec.ChannelOpen:
                self.assertTrue(callable(AMQPProtocol.open_channel))
            else:
                verb = getattr(Channel, name.removeprefix("channel_"), None)
                self.assertTrue(callable(verb), each.name)

    def test_wrong_arguments(self) -> None:
        """
        What cannot be sent fails through the Deferred, with nothing sent; it raises
        nothing, and the channel is as before.
        """
        for number, (call, error) in enumerate(WRONG):
            failed = self.reason(call(self.channel), error)
            self.assertEqual(self.heard(), [], f"{number}: {failed!r}")
        self.assertEqual(self.channel._machine.consumers, {})
        declared = self.channel.queue_declare("work")
        self.peer.serve()
        self.assertEqual(self.successResultOf(declared).queue, "work")

    def test_path_of_a_bad_value(self) -> None:
        """
        The error tells which value it was.
        """
        bad = self.channel.queue_declare("q", arguments={"a": [1, {"b": _ANY}]})
        self.assertIn("['a'][1]['b']", self.reason(bad, EncodeError).path)

    def test_arguments_too_large_for_a_frame(self) -> None:
        """
        A table that the agreed frame cannot hold is refused here: the broker would
        close the connection for it.
        """
        large = self.channel.queue_declare("q", arguments={"a": "x" * 140_000})
        self.assertIn("frame_max", str(self.reason(large, EncodeError)))
        self.assertEqual(self.heard(), [])

    def test_ended(self) -> None:
        """
        On a channel that has ended, each verb fails with the reason of that.
        """
        self.peer.send(1, spec.ChannelClose(406, "no", 0, 0))
        self.heard()
        calls = [
            *EVERY,
            lambda c: c.basic_get("work"),
            lambda c: c.basic_consume("work", print),
            lambda c: c.consume("work"),
        ]
        for call in calls:
            self.assertEqual(
                self.reason(call(self.channel), ChannelClosed).reply_code, 406
            )
        self.assertEqual(self.heard(), [])

    def test_closing(self) -> None:
        """
        After our own close nothing is sent, and verbs fail saying so.
        """
        closing = self.channel.close()
        self.assertEqual(self.heard(), [spec.ChannelClose(200, "", 0, 0)])
        for call in EVERY:
            self.assertTrue(self.reason(call(self.channel), ChannelClosed).by_us)
        self.assertEqual(self.heard(), [])
        self.assertNoResult(closing)


class WarningTests(ChannelCase):
    """
    What modern brokers refuse.
    """

    def setUp(self) -> None:
        """
        Keep what is logged, with what had been sent by then.
        """
        super().setUp()
        self.warnings: list[str] = []
        test = self

        @implementer(ILogObserver)
        class Observer:
            def __call__(self, event: LogEvent) -> None:
                if event["log_level"] is LogLevel.warn:
                    test.assertEqual(test.heard(), [], "sent before the warning")
                    test.warnings.append(event["log_format"])

        observer = Observer()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def test_neither_durable_nor_exclusive(self) -> None:
        """
        A queue that is neither is warned of, and declared all the same.
        """
        self.channel.queue_declare("work", durable=False)
        self.assertEqual(len(self.warnings), 1)
        self.assertIn("neither durable nor exclusive", self.warnings[0])
        self.assertEqual(self.peer.serve(), [spec.QueueDeclare(0, "work")])

    def test_defaults_are_accepted(self) -> None:
        """
        A queue is durable, unless it is exclusive; neither is warned of, nor is the
        question whether one exists.
        """
        self.channel.queue_declare("work")
        self.channel.queue_declare("work", exclusive=True)
        self.channel.queue_declare("work", durable=True, exclusive=True)
        self.channel.queue_declare("work", passive=True, durable=False)
        durable = [
            (each.durable, each.exclusive)
            for each in self.peer.serve()
            if isinstance(each, spec.QueueDeclare)
        ]
        self.assertEqual(
            durable, [(True, False), (False, True), (True, True), (False, False)]
        )
        self.assertEqual(self.warnings, [])

    def test_global_qos(self) -> None:
        """
        One limit for the whole channel is warned of; one per consumer is not.
        """
        self.channel.basic_qos(prefetch_count=10)
        self.peer.serve()
        self.assertEqual(self.warnings, [])
        self.channel.basic_qos(prefetch_count=10, global_qos=True)
        self.assertEqual(len(self.warnings), 1)
        self.assertEqual(self.peer.serve(), [spec.BasicQos(0, 10, True)])
