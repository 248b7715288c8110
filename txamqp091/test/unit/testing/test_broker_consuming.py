# -*- test-case-name: txamqp091.test.unit.testing.test_broker_consuming -*-
"""
Tests for `txamqp091.testing._broker.channels` and
`txamqp091.testing._broker.consumers`: who gets which message, and what settling it
does.
"""

from __future__ import annotations

from txamqp091.test.support.brokers import BrokerTestCase, ClientChannel, queue
from txamqp091.wire import spec
from txamqp091.wire.method import Method


def consume(name: str, tag: str, priority: int = 0, **fields: object) -> Method:
    """
    The start of a consumer.
    """
    arguments = {"x-priority": priority} if priority else {}
    return spec.BasicConsume(
        queue=name,
        consumer_tag=tag,
        arguments=arguments,
        **fields,  # type: ignore[arg-type]
    )


class ConsumerTests(BrokerTestCase):
    """
    Consumers, their tags and their turns.
    """

    def setUp(self) -> None:
        super().setUp()
        self.channel.tell(queue("q"))

    def publish(self, *bodies: bytes) -> None:
        for body in bodies:
            self.channel.publish("", "q", body)

    def turns(self, channel: ClientChannel | None = None) -> list[tuple[str, bytes]]:
        """
        Which consumer got what.
        """
        return [
            (each.method.consumer_tag, each.body)
            for each in (channel or self.channel).take()
            if isinstance(each.method, spec.BasicDeliver)
        ]

    def test_consume(self) -> None:
        """
        A consumer is confirmed before it gets what is ready.
        """
        self.publish(b"1")
        self.channel.broker_side.handle(consume("q", "t"))
        confirmed, delivered = self.channel.take()
        self.assertEqual(confirmed.method, spec.BasicConsumeOk("t"))
        self.assertEqual(delivered.method, spec.BasicDeliver("t", 1, False, "", "q"))
        self.assertEqual(delivered.body, b"1")

    def test_server_named(self) -> None:
        """
        A consumer without a tag gets one.
        """
        (reply,) = self.channel.tell(spec.BasicConsume(queue="q"))
        assert isinstance(reply, spec.BasicConsumeOk)
        self.assertRegex(reply.consumer_tag, r"^amq\.ctag-\d{22}$")

    def test_tag_in_use(self) -> None:
        """
        To use a tag twice on a channel costs the connection.
        """
        self.channel.tell(consume("q", "t"))
        self.assert_refused(
            530,
            "NOT_ALLOWED - attempt to reuse consumer tag 't'",
            consume("q", "t"),
            self.channel,
            connection=True,
        )
        self.client.channel().tell(consume("q", "t"))

    def test_refused(self) -> None:
        """
        A queue must be there, a priority be a number, and the queue not in exclusive
        use.
        """
        in_use = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
        self.assert_refused(
            404, "NOT_FOUND - no queue 'none' in vhost '/'", consume("none", "t")
        )
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost "
            "'/': \"expected integer, got longstr\"",
            spec.BasicConsume(queue="q", arguments={"x-priority": "high"}),
        )
        self.channel.tell(consume("q", "t", exclusive=True))
        self.assert_refused(403, in_use, consume("q", "u"))
        self.channel.tell(spec.BasicCancel("t"), consume("q", "u"))
        self.assert_refused(403, in_use, consume("q", "v", exclusive=True))

    def test_round_robin(self) -> None:
        """
        Consumers have their turns, over all channels.
        """
        other = self.client.channel()
        self.channel.tell(consume("q", "a"), consume("q", "b"))
        other.tell(consume("q", "c"))
        self.publish(b"1", b"2", b"3", b"4")
        self.assertEqual(self.turns(), [("a", b"1"), ("b", b"2"), ("a", b"4")])
        self.assertEqual(self.turns(other), [("c", b"3")])

    def test_priority(self) -> None:
        """
        Consumers of a higher priority are first, as long as they have room.
        """
        self.channel.tell(
            spec.BasicQos(0, 1),
            consume("q", "high", 5),
            spec.BasicQos(0, 0),
            consume("q", "low"),
            consume("q", "negative", -1),
        )
        self.publish(b"1", b"2", b"3")
        self.assertEqual(self.turns(), [("high", b"1"), ("low", b"2"), ("low", b"3")])
        self.channel.broker_side.handle(spec.BasicAck(1))
        self.publish(b"4")
        self.assertEqual(self.turns(), [("high", b"4")])

    def test_single_active(self) -> None:
        """
        One consumer gets everything; when it goes, the one of the highest priority is
        next.
        """
        self.channel.tell(
            queue("s", single_active_consumer=True),
            consume("s", "a"),
            consume("s", "b"),
            consume("s", "c", 5),
        )
        self.channel.publish("", "s", b"1")
        self.channel.publish("", "s", b"2")
        self.assertEqual(self.turns(), [("a", b"1"), ("a", b"2")])
        self.channel.tell(spec.BasicCancel("a"))
        self.channel.publish("", "s", b"3")
        self.assertEqual(self.turns(), [("c", b"3")])

    def test_single_active_quorum(self) -> None:
        """
        In a quorum queue a higher priority takes over, once nothing is out.
        """
        self.channel.tell(
            queue("s", type="quorum", single_active_consumer=True), consume("s", "a")
        )
        self.channel.publish("", "s", b"1")
        self.channel.tell(consume("s", "b", 5))
        self.channel.publish("", "s", b"2")
        self.channel.broker_side.handle(spec.BasicAck(0, True))
        self.channel.publish("", "s", b"3")
        self.assertEqual(self.turns()[-1], ("b", b"3"))

    def test_cancel(self) -> None:
        """
        A cancelled consumer gets no more, and keeps what it has; to cancel nothing is
        no matter.
        """
        self.channel.tell(consume("q", "t"))
        self.publish(b"1")
        self.assertEqual(
            self.channel.tell(spec.BasicCancel("t"), spec.BasicCancel("t"))[-2:],
            [spec.BasicCancelOk("t")] * 2,
        )
        self.publish(b"2")
        self.assertEqual(self.turns(), [])
        self.assertEqual(self.broker.queue("q").unacked, 1)
        self.channel.tell(spec.BasicAck(1))
        self.assertEqual(self.broker.queue("q").unacked, 0)

    def test_auto_delete(self) -> None:
        """
        An auto-delete queue goes with its last consumer, however that goes.
        """
        declare = spec.QueueDeclare(queue="a", durable=True, auto_delete=True)
        self.channel.tell(declare, consume("a", "t"), consume("a", "u"))
        self.channel.tell(spec.BasicCancel("t"))
        self.assertIn("a", self.broker.queues())
        self.channel.tell(spec.BasicCancel("u"))
        self.assertNotIn("a", self.broker.queues())
        other = self.client.channel()
        other.tell(declare, consume("a", "t"))
        other.broker_side.close()
        self.assertNotIn("a", self.broker.queues())

    def test_going_one_by_one(self) -> None:
        """
        Consumers may go while others have no room, or wait for their turn.
        """
        other = self.client.channel()
        self.channel.tell(spec.BasicQos(0, 1), consume("q", "a"), consume("q", "b"))
        other.tell(consume("q", "c", -1))
        self.publish(b"1", b"2", b"3")
        self.assertEqual(self.turns(), [("a", b"1"), ("b", b"2")])
        self.channel.tell(spec.BasicCancel("a"), spec.BasicAck(0, True))
        other.tell(spec.BasicCancel("c"))
        self.publish(b"4")
        self.assertEqual(self.turns(), [("b", b"4")])
        self.channel.tell(spec.BasicCancel("b"))
        self.publish(b"5")
        self.assertEqual(self.broker.queue("q").bodies, [b"5"])

    def test_no_ack(self) -> None:
        """
        What is sent to a consumer that does not acknowledge is done with.
        """
        self.channel.tell(consume("q", "t", no_ack=True))
        self.publish(b"1")
        self.assertEqual(self.broker.queue("q").unacked, 0)
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - unknown delivery tag 1",
            spec.BasicAck(1),
            self.channel,
        )

    def test_get(self) -> None:
        """
        Fetching takes one message, and says how many are left.
        """
        self.publish(b"1", b"2")
        got = self.channel.get("q")
        assert got is not None
        self.assertEqual(got.method, spec.BasicGetOk(1, False, "", "q", 1))
        self.channel.get("q")
        self.assertEqual(
            self.channel.tell(spec.BasicGet(queue="q")), [spec.BasicGetEmpty()]
        )


class ReentrantChannel(ClientChannel):
    """
    A channel whose client acknowledges from inside a delivery, and publishes anew.
    """

    left = 5

    def deliver(self, method: Method, properties: object, body: bytes) -> None:
        super().deliver(method, properties, body)  # type: ignore[arg-type]
        assert isinstance(method, spec.BasicDeliver)
        if self.left:
            self.left -= 1
            self.publish("", "q", b"again")
        self.broker_side.handle(spec.BasicAck(method.delivery_tag))


class ReentrancyTests(BrokerTestCase):
    """
    Clients that call from where they are called.
    """

    def test_settled_inside(self) -> None:
        """
        A client may settle and publish while it is being delivered to.
        """
        channel = ReentrantChannel(self.client, 9)
        channel.tell(queue("q"), spec.BasicQos(0, 1), consume("q", "t"))
        channel.publish("", "q", b"first")
        self.assertEqual(len(channel.bodies()), 6)
        self.assertEqual(self.broker.queue("q").unacked, 0)
        self.assertEqual(self.broker.queue("q").ready, 0)

    def test_published_inside(self) -> None:
        """
        What is published to a queue while it delivers can be delivered, even if the
        queue may keep nothing.
        """
        channel = ReentrantChannel(self.client, 9)
        channel.tell(queue("q", max_length=0), consume("q", "t"))
        channel.publish("", "q", b"first")
        self.assertEqual(len(channel.bodies()), 6)


class PrefetchTests(BrokerTestCase):
    """
    How much may be out.
    """

    def setUp(self) -> None:
        super().setUp()
        self.channel.tell(queue("q"))
        for number in range(6):
            self.channel.publish("", "q", b"%d" % number)

    def test_per_consumer(self) -> None:
        """
        The limit is for each consumer that comes after it.
        """
        self.channel.broker_side.handle(spec.BasicQos(0, 1))
        self.channel.broker_side.handle(consume("q", "a"))
        self.channel.broker_side.handle(spec.BasicQos(0, 2))
        self.channel.broker_side.handle(consume("q", "b"))
        self.assertEqual(self.channel.bodies(), [b"0", b"1", b"2"])
        self.channel.broker_side.handle(spec.BasicAck(1))
        self.assertEqual(self.channel.bodies(), [b"3"])
        self.channel.broker_side.handle(spec.BasicAck(3, True))
        self.assertEqual(self.channel.bodies(), [b"4", b"5"])

    def test_requeue_makes_room(self) -> None:
        """
        What a consumer hands back may come to it again.
        """
        self.channel.tell(spec.BasicQos(0, 1), consume("q", "a"))
        self.channel.broker_side.handle(spec.BasicNack(1))
        (again,) = self.channel.take()
        self.assertEqual(again.method, spec.BasicDeliver("a", 2, True, "", "q"))
        self.assertEqual(again.body, b"0")

    def test_per_channel(self) -> None:
        """
        RabbitMQ 4.3 takes a limit for the whole channel, and does not heed it.
        """
        self.channel.broker_side.handle(spec.BasicQos(0, 2, True))
        self.channel.broker_side.handle(consume("q", "a"))
        self.assertEqual(len(self.channel.bodies()), 6)

    def test_refused(self) -> None:
        """
        RabbitMQ knows no limit in bytes.
        """
        self.assert_refused(
            540,
            "NOT_IMPLEMENTED - prefetch_size!=0 (5)",
            spec.BasicQos(5),
            connection=True,
        )


class OldPrefetchTests(BrokerTestCase):
    """
    How much may be out, as in RabbitMQ 3.10.
    """

    version = "3.10.8"

    def test_per_channel(self) -> None:
        """
        A limit for the whole channel is shared by its consumers, in turns, and can be
        changed.
        """
        self.channel.tell(queue("q"))
        for number in range(6):
            self.channel.publish("", "q", b"%d" % number)
        self.channel.broker_side.handle(spec.BasicQos(0, 3, True))
        self.channel.broker_side.handle(consume("q", "a"))
        self.channel.broker_side.handle(consume("q", "b"))
        self.assertEqual(self.channel.bodies(), [b"0", b"1", b"2"])
        self.channel.broker_side.handle(spec.BasicAck(1))
        self.assertEqual(self.channel.bodies(), [b"3"])
        self.channel.broker_side.handle(spec.BasicQos(0, 4, True))
        self.assertEqual(self.channel.bodies(), [b"4"])
        self.channel.broker_side.handle(spec.BasicQos(0, 0, True))
        self.assertEqual(self.channel.bodies(), [b"5"])


class SettlingTests(BrokerTestCase):
    """
    Acknowledging, rejecting, recovering.
    """

    def setUp(self) -> None:
        super().setUp()
        self.channel.tell(queue("q"))
        for number in range(4):
            self.channel.publish("", "q", b"%d" % number)
            self.channel.get("q", no_ack=False)

    def left(self) -> tuple[int, list[bytes]]:
        """
        How many messages are out, and which are ready.
        """
        view = self.broker.queue("q")
        return view.unacked, view.bodies

    def test_ack(self) -> None:
        """
        One delivery is acknowledged, or all up to one, or all.
        """
        self.channel.tell(spec.BasicAck(3))
        self.assertEqual(self.left(), (3, []))
        self.channel.tell(spec.BasicAck(2, True))
        self.assertEqual(self.left(), (1, []))
        self.channel.tell(spec.BasicAck(0, True))
        self.assertEqual(self.left(), (0, []))
        self.channel.tell(spec.BasicAck(0, True), spec.BasicNack(0, True))

    def test_nack(self) -> None:
        """
        Deliveries go back, or are dropped.
        """
        self.channel.tell(spec.BasicNack(2, True, True))
        self.assertEqual(self.left(), (2, [b"0", b"1"]))
        self.channel.tell(spec.BasicReject(3, False), spec.BasicReject(4, True))
        self.assertEqual(self.left(), (0, [b"0", b"1", b"3"]))

    def test_recover(self) -> None:
        """
        Everything goes back; there is a reply only where there should be one.
        """
        self.assertEqual(
            self.channel.tell(spec.BasicRecover(True)), [spec.BasicRecoverOk()]
        )
        self.assertEqual(self.left(), (0, [b"0", b"1", b"2", b"3"]))
        self.assertEqual(self.channel.tell(spec.BasicRecoverAsync(True)), [])
        self.assert_refused(
            540,
            "NOT_IMPLEMENTED - requeue=false",
            spec.BasicRecover(False),
            connection=True,
        )

    def test_unknown(self) -> None:
        """
        A tag that is not out is refused, whatever is to be done with it.
        """
        methods: list[Method] = [
            spec.BasicAck(9),
            spec.BasicAck(9, True),
            spec.BasicNack(9),
            spec.BasicReject(9),
        ]
        for method in methods:
            self.assert_refused(
                406,
                "PRECONDITION_FAILED - unknown delivery tag 9",
                method,
                self.channel,
            )
        self.channel.tell(spec.BasicAck(1))
        self.assertEqual(
            self.refusal(spec.BasicAck(1), self.channel).reply_text,
            "PRECONDITION_FAILED - unknown delivery tag 1",
        )

    def test_close(self) -> None:
        """
        With its channel a delivery goes back, and nothing comes any more.
        """
        self.channel.tell(consume("q", "t"))
        self.channel.broker_side.close()
        self.channel.broker_side.close()
        self.assertEqual(self.left(), (0, [b"0", b"1", b"2", b"3"]))
        self.assertEqual(self.broker.queue("q").consumers, 0)
        self.assertEqual(self.channel.take(), [])

    def test_connection_closes(self) -> None:
        """
        When a connection ends, its channels do not get what others of them leave.
        """
        self.channel.tell(queue("quorum", type="quorum"))
        self.channel.tell(consume("quorum", "t"), consume("q", "u"))
        second = self.client.channel()
        second.tell(consume("quorum", "t"), consume("q", "u"))
        other = self.connect().channel()
        other.publish("", "quorum")
        self.client.session.close()
        self.assertEqual(second.take(), [])
        (message,) = self.broker.queue("quorum").messages
        self.assertEqual(
            message.properties.headers, {"x-acquired-count": 1, "x-delivery-count": 1}
        )

    def test_close_hands_over(self) -> None:
        """
        What a channel leaves behind goes to other consumers, not to its own.
        """
        self.channel.tell(consume("q", "t"), consume("q", "u"))
        other = self.client.channel()
        other.tell(consume("q", "v"))
        self.channel.broker_side.close()
        self.assertEqual(other.bodies(), [b"0", b"1", b"2", b"3"])


class TransactionTests(BrokerTestCase):
    """
    What waits for a commit.
    """

    def setUp(self) -> None:
        super().setUp()
        self.channel.tell(queue("q"), spec.TxSelect(), spec.TxSelect())

    def test_publish(self) -> None:
        """
        Messages are routed, and returned, when they are committed.
        """
        self.channel.publish("", "q", b"1")
        self.channel.publish("", "none", b"2", mandatory=True)
        self.assertEqual(self.broker.queue("q").ready, 0)
        self.assertEqual(
            self.channel.tell(spec.TxCommit()),
            [spec.BasicReturn(312, "NO_ROUTE", "", "none"), spec.TxCommitOk()],
        )
        self.assertEqual(self.broker.queue("q").bodies, [b"1"])
        self.channel.publish("", "q", b"3")
        self.assertEqual(self.channel.tell(spec.TxRollback()), [spec.TxRollbackOk()])
        self.channel.tell(spec.TxCommit())
        self.assertEqual(self.broker.queue("q").bodies, [b"1"])

    def test_settle(self) -> None:
        """
        Deliveries are settled when that is committed; a rollback has them out again, in
        order.
        """
        for body in (b"1", b"2", b"3"):
            self.broker.publish("", "q", body)
            self.channel.get("q", no_ack=False)
        view = self.broker.queue("q")
        self.channel.tell(spec.BasicAck(2), spec.BasicNack(3))
        self.assertEqual((view.unacked, view.ready), (3, 0))
        self.channel.tell(spec.TxRollback(), spec.BasicAck(2, True), spec.TxCommit())
        self.assertEqual((view.unacked, view.ready), (1, 0))
        self.channel.tell(spec.BasicNack(3), spec.TxCommit())
        self.assertEqual((view.unacked, view.bodies), (0, [b"3"]))

    def test_refused_at_once(self) -> None:
        """
        What cannot be is refused before it is committed.
        """
        self.assertEqual(
            self.refusal(spec.BasicAck(1), self.channel).reply_text,
            "PRECONDITION_FAILED - unknown delivery tag 1",
        )

    def test_modes_exclude_each_other(self) -> None:
        """
        A channel is transactional, or confirms, or neither.
        """
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
            spec.ConfirmSelect(),
            self.channel,
        )
        confirming = self.client.channel()
        confirming.tell(spec.ConfirmSelect(), spec.ConfirmSelect())
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
            spec.TxSelect(),
            confirming,
        )
        methods: list[Method] = [spec.TxCommit(), spec.TxRollback()]
        for method in methods:
            self.assert_refused(
                406, "PRECONDITION_FAILED - channel is not transactional", method
            )

    def test_partial(self) -> None:
        """
        A commit of which a queue refuses a part is refused.
        """
        self.channel.tell(queue("full", max_length=0, overflow="reject-publish"))
        self.channel.publish("", "full")
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - partial tx completion",
            spec.TxCommit(),
            self.channel,
        )

    def test_close(self) -> None:
        """
        What is not committed when the channel goes has never been.
        """
        self.broker.publish("", "q", b"1")
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicAck(1))
        self.channel.broker_side.close()
        self.assertEqual(self.broker.queue("q").bodies, [b"1"])


class OtherMethodTests(BrokerTestCase):
    """
    Methods that RabbitMQ answers, or does not, without doing anything.
    """

    def test_answered(self) -> None:
        """
        To let content flow, and to ask for access, is granted.
        """
        self.assertEqual(
            self.channel.tell(spec.ChannelFlow(True), spec.AccessRequest()),
            [spec.ChannelFlowOk(True), spec.AccessRequestOk(1)],
        )
        self.assertEqual(self.channel.tell(spec.BasicCancelOk("t")), [])

    def test_refused(self) -> None:
        """
        What only a broker sends, and what RabbitMQ does not do, costs the connection.
        """
        for code, text, method in (
            (503, "COMMAND_INVALID - unimplemented method", spec.QueueDeclareOk("q")),
            (540, "NOT_IMPLEMENTED - active=false", spec.ChannelFlow(False)),
            (504, "CHANNEL_ERROR - second 'channel.open' seen", spec.ChannelOpen()),
        ):
            self.assert_refused(code, text, method, connection=True)
