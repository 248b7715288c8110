# -*- test-case-name: txamqp091.test.unit.testing.test_broker -*-
"""
Tests for `txamqp091.testing._broker.broker`: users, connections, views and faults.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.test.support.brokers import BrokerTestCase, Client, queue
from txamqp091.testing._broker.behaviour import Behaviour
from txamqp091.testing._broker.broker import Broker, Refused
from txamqp091.testing._broker.exchanges import Exchange
from txamqp091.wire import spec
from txamqp091.wire.encoding import encode_table
from txamqp091.wire.properties import Properties

LOGIN_REFUSED = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism {}. For details "
    "see the broker logfile."
)


class UserTests(BrokerTestCase):
    """
    Who may connect, and who may do what.
    """

    def authenticate(self, mechanism: str, response: bytes) -> str:
        return self.broker.authenticate(mechanism, response).name

    def test_mechanisms(self) -> None:
        """
        A user is known by the response of each mechanism.
        """
        table = encode_table({"LOGIN": "guest", "PASSWORD": "guest"})[4:]
        self.assertEqual(self.authenticate("PLAIN", b"\0guest\0guest"), "guest")
        self.assertEqual(self.authenticate("AMQPLAIN", table), "guest")
        self.assertEqual(self.authenticate("ANONYMOUS", b""), "guest")

    def test_login_refused(self) -> None:
        """
        A wrong password, an unknown user, a response without sense and an unknown
        mechanism are all refused with the same words.
        """
        for mechanism, response in (
            ("PLAIN", b"\0guest\0wrong"),
            ("PLAIN", b"\0nobody\0guest"),
            ("PLAIN", b"guest"),
            ("AMQPLAIN", b"\xff"),
            ("AMQPLAIN", b""),
            ("MAGIC", b"guest"),
        ):
            refused = self.assertRaises(
                Refused, self.broker.authenticate, mechanism, response
            )
            self.assertEqual(refused.reply_code, 403)
            self.assertEqual(refused.reply_text, LOGIN_REFUSED.format(mechanism))
            self.assertTrue(refused.connection)

    def test_changed_password(self) -> None:
        """
        A user who is added again has the new password, and the old rights.
        """
        self.broker.set_permissions("guest", "/", "", "", "")
        self.broker.add_user("guest", "new")
        self.assertRaises(Refused, self.connect)
        channel = self.connect(password="new").channel()
        self.assertEqual(self.refusal(queue("q"), channel).reply_code, 403)

    def test_virtual_hosts(self) -> None:
        """
        A virtual host must be there, and the user must have rights in it.
        """
        refused = self.assertRaises(Refused, self.connect, vhost="nowhere")
        self.assertEqual(refused.reply_code, 530)
        self.assertEqual(refused.reply_text, "NOT_ALLOWED - vhost nowhere not found")
        self.broker.add_vhost("new")
        refused = self.assertRaises(Refused, self.connect, vhost="new")
        self.assertEqual(
            refused.reply_text,
            "NOT_ALLOWED - access to vhost 'new' refused for user 'guest'",
        )
        self.broker.set_permissions("guest", "new")
        self.connect(vhost="new").channel().tell(queue("there"))
        self.assertEqual(self.broker.queues("new"), ["there"])
        self.assertEqual(self.broker.queues(), [])
        self.broker.clear_permissions("guest", "new")
        self.assertRaises(Refused, self.connect, vhost="new")

    def test_secrets_not_shown(self) -> None:
        """
        No password is in what is printed.
        """
        user = self.broker.add_user("somebody", "canary")
        refused = self.assertRaises(
            Refused, self.broker.authenticate, "PLAIN", b"\0nobody\0canary"
        )
        for thing in (user, self.broker, refused, self.connect("somebody", "canary")):
            self.assertNotIn("canary", f"{thing!r} {thing}")

    def test_update_secret(self) -> None:
        """
        A new secret is kept with the connection.
        """
        self.client.session.update_secret(b"new", "the old one expires")
        self.assertEqual(self.client.session.secret, b"new")


class SessionTests(BrokerTestCase):
    """
    Connections come and go.
    """

    def test_close(self) -> None:
        """
        With a connection its exclusive queues and consumers go, and what it has not
        acknowledged goes back.
        """
        other = self.connect().channel()
        self.channel.tell(
            queue("shared"),
            spec.QueueDeclare(queue="own", exclusive=True),
            spec.BasicConsume(queue="shared"),
        )
        other.publish("", "shared", b"message")
        self.client.session.close()
        self.client.session.close()
        self.assertEqual(self.broker.queues(), ["shared"])
        self.assertEqual(self.broker.queue("shared").consumers, 0)
        self.assertEqual(self.broker.queue("shared").bodies, [b"message"])
        self.assertEqual(len(self.broker.sessions), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_stays(self) -> None:
        """
        A thousand connections leave nothing behind.
        """
        for _ in range(1000):
            client = self.connect()
            client.channel().tell(spec.QueueDeclare(exclusive=True))
            client.session.close()
        self.assertEqual(len(self.broker.sessions), 1)
        self.assertEqual(self.broker.queues(), [])

    def test_representations(self) -> None:
        """
        What is printed says what it is.
        """
        self.channel.tell(queue("q"), spec.BasicConsume(queue="q", consumer_tag="t"))
        self.assertEqual(repr(self.broker), "<Broker 4.3.6, 1 connections>")
        self.assertEqual(repr(self.client.session), "<Session of 'guest', 1 channels>")
        self.assertEqual(repr(self.channel.broker_side), "<BrokerChannel 1, 0 unacked>")
        self.assertEqual(repr(self.client.session.vhost), "<VirtualHost '/'>")
        self.assertEqual(
            repr(self.broker.queue("q")),
            "<QueueView 'q': 0 ready, 0 unacked, 1 consumers>",
        )
        self.assertEqual(
            repr(self.broker.exchange("amq.topic")), "<ExchangeView 'amq.topic', topic>"
        )
        self.assertEqual(repr(Exchange("x", "fanout")), "<Exchange 'x', fanout>")


class ViewTests(BrokerTestCase):
    """
    What a test sees, and prepares.
    """

    def test_queue(self) -> None:
        """
        A view shows a queue as it is now.
        """
        view = self.broker.declare_queue("q", arguments={"x-max-length": 5})
        self.assertTrue(self.broker.publish("", "q", b"1"))
        self.broker.publish("", "q", b"2", Properties(message_id="m"))
        self.broker.bind_queue("q", "amq.direct", "key")
        self.assertEqual((view.name, view.ready, view.unacked), ("q", 2, 0))
        self.channel.get("q", no_ack=False)
        self.assertEqual((view.ready, view.unacked), (1, 1))
        self.assertEqual([each.body for each in view.unacked_messages], [b"1"])
        self.assertEqual(view.messages[0].properties.message_id, "m")
        self.assertEqual(view.messages[0].routing_key, "q")
        self.assertEqual(view.bindings, [("amq.direct", "key")])
        self.assertEqual(view.arguments, {"x-max-length": 5})
        self.assertEqual((view.durable, view.exclusive), (True, False))
        self.assertFalse(view.auto_delete)
        self.channel.tell(spec.BasicConsume(queue="q", consumer_tag="t"))
        self.assertEqual(view.consumer_tags, ["t"])
        self.assertEqual((view.consumers, view.ready, view.unacked), (1, 0, 2))
        self.channel.tell(spec.BasicCancel("t"), spec.BasicAck(1))
        self.assertEqual((view.consumers, view.unacked), (0, 1))

    def test_stream(self) -> None:
        """
        So it shows a stream: all of it is ready.
        """
        view = self.broker.declare_queue("s", arguments={"x-queue-type": "stream"})
        self.broker.publish("", "s", b"1")
        arguments = {"x-stream-offset": "first"}
        self.channel.tell(
            spec.BasicQos(0, 1),
            spec.BasicConsume(queue="s", consumer_tag="t", arguments=arguments),
        )
        self.assertEqual((view.consumers, view.bodies, view.unacked), (1, [b"1"], 0))
        self.channel.tell(spec.BasicCancel("t"))
        self.assertEqual(view.consumers, 0)

    def test_exchange(self) -> None:
        """
        A view shows an exchange as it is now.
        """
        view = self.broker.declare_exchange(
            "x", "topic", arguments={"alternate-exchange": "y"}
        )
        self.broker.declare_queue("q")
        self.broker.bind_queue("q", "x", "a.#")
        self.assertEqual((view.name, view.type, view.internal), ("x", "topic", False))
        self.assertEqual((view.durable, view.auto_delete), (True, False))
        self.assertEqual(view.bindings, [("q", "a.#")])
        self.assertEqual(view.arguments, {"alternate-exchange": "y"})
        self.assertIn("x", self.broker.exchanges())

    def test_unknown(self) -> None:
        """
        There is no view of what is not there.
        """
        self.assertRaises(KeyError, self.broker.queue, "q")
        self.assertRaises(KeyError, self.broker.exchange, "x")
        self.assertRaises(KeyError, self.broker.queue, "q", "nowhere")

    def test_published(self) -> None:
        """
        What clients publish is remembered, wherever it went; only the last of it.
        """
        broker = Broker(history=2)
        for body in (b"1", b"2", b"3"):
            broker.publish("amq.fanout", "key", body)
        self.assertEqual([each.body for each in broker.published], [b"2", b"3"])
        self.assertEqual(broker.published[0].exchange, "amq.fanout")

    def test_declared_twice(self) -> None:
        """
        To prepare what is there already changes nothing.
        """
        self.broker.declare_queue("q", durable=False)
        self.assertFalse(self.broker.declare_queue("q").durable)
        self.broker.declare_exchange("x", "fanout")
        self.assertEqual(self.broker.declare_exchange("x").type, "fanout")


class FaultTests(BrokerTestCase):
    """
    A broker that misbehaves when it is told to.
    """

    def test_block(self) -> None:
        """
        Every client is told that the broker is short of something, once: also one that
        comes later.
        """
        self.broker.block("low on disk")
        late = self.connect()
        self.assertIsNone(late.blocked)
        late.channel()
        self.assertEqual((self.client.blocked, late.blocked), ("low on disk",) * 2)
        self.broker.unblock()
        self.assertEqual((self.client.blocked, late.blocked), (None, None))

    def test_close_connections(self) -> None:
        """
        Every connection is closed, and the session has ended before it is told.
        """
        self.broker.close_connections()
        self.assertEqual(self.client.closed, (320, "CONNECTION_FORCED - shutdown"))
        self.assertEqual(self.broker.sessions, [])

    def test_close_channels(self) -> None:
        """
        Channels are closed with a code, all or by number.
        """
        second = self.client.channel()
        self.broker.close_channels(404, "no such thing", number=2)
        self.assertIsNone(self.channel.closed)
        self.assertEqual(second.closed, (404, "NOT_FOUND - no such thing"))
        self.broker.close_channels()
        self.assertEqual(
            self.channel.closed, (406, "PRECONDITION_FAILED - closed by a test")
        )
        self.assertEqual(self.client.session.channels, {})

    def test_cancel_consumers(self) -> None:
        """
        Consumers are told that they have ended, and the queue stays.
        """
        self.channel.tell(queue("q"), spec.BasicConsume(queue="q", consumer_tag="t"))
        self.assertEqual(self.broker.cancel_consumers("q"), 1)
        self.assertEqual(self.channel.methods(), [spec.BasicCancel("t", True)])
        self.assertEqual(self.broker.queue("q").consumers, 0)

    def test_delete_queue(self) -> None:
        """
        A queue goes behind its consumers' backs, and they are told.
        """
        self.channel.tell(queue("q"), spec.BasicConsume(queue="q", consumer_tag="t"))
        self.broker.delete_queue("q")
        self.assertEqual(self.channel.methods(), [spec.BasicCancel("t", True)])
        self.assertEqual(self.broker.queues(), [])

    def test_confirms_held(self) -> None:
        """
        Confirms wait until they are released, in order, unless the channel has gone.
        """
        other = self.client.channel()
        self.channel.tell(spec.ConfirmSelect())
        other.tell(spec.ConfirmSelect())
        self.broker.hold_confirms()
        self.channel.publish("", "nowhere")
        self.channel.publish("", "nowhere")
        other.publish("", "nowhere")
        other.broker_side.close()
        self.assertEqual(self.channel.methods(), [])
        self.broker.release_confirms()
        self.assertEqual(self.channel.methods(), [spec.BasicAck(1), spec.BasicAck(2)])
        self.assertEqual(other.methods(), [])

    def test_refused_publishes(self) -> None:
        """
        The broker refuses as many publishes as it is told to.
        """
        self.channel.tell(queue("q"), spec.ConfirmSelect())
        self.broker.refuse_publishes()
        self.channel.publish("", "q", b"1")
        self.channel.publish("", "q", b"2")
        self.assertEqual(
            self.channel.methods(), [spec.BasicNack(1, True), spec.BasicAck(2)]
        )
        self.assertEqual(self.broker.queue("q").bodies, [b"2"])


class ConstructionTests(SynchronousTestCase):
    """
    How a broker is made.
    """

    def test_defaults(self) -> None:
        """
        By default there are a clock, one virtual host, and guest.
        """
        broker = Broker()
        self.assertIsInstance(broker.clock, Clock)
        self.assertEqual(broker.queues("/"), [])
        self.assertEqual(broker.authenticate("PLAIN", b"\0guest\0guest").name, "guest")

    def test_transient_queues(self) -> None:
        """
        A broker can refuse queues that are neither durable nor exclusive.
        """
        broker = Broker(transient_queues=False)
        channel = Client(broker, "guest", "guest", "/").channel()
        channel.tell(spec.QueueDeclare(queue="q", exclusive=True), queue("r"))
        refused: Refused = self.assertRaises(
            Refused, channel.broker_side.handle, spec.QueueDeclare(queue="s")
        )
        self.assertEqual((refused.reply_code, refused.connection), (541, True))
        self.assertIn("transient_nonexcl_queues", refused.reply_text)

    def test_between(self) -> None:
        """
        Versions between the two that were looked at are like either.
        """
        self.assertEqual(Behaviour.of("3.13").delivery_limit, None)
        self.assertEqual(Behaviour.of("4.0.5").delivery_limit, 20)
        self.assertTrue(Behaviour.of("4.0.5").channel_prefetch)
        self.assertFalse(Behaviour.of("4.3").channel_prefetch)
        self.assertIn("x-local-random", Behaviour.of("4.0.5").exchange_types)
        self.assertNotIn("x-modulus-hash", Behaviour.of("4.0.5").exchange_types)

    def test_no_version(self) -> None:
        """
        What is no version is refused.
        """
        self.assertRaises(ValueError, Broker, version="latest")
