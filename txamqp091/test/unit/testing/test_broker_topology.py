# -*- test-case-name: txamqp091.test.unit.testing.test_broker_topology -*-
"""
Tests for `txamqp091.testing._broker.declarations`: exchanges and queues, and the words
with which they are refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from txamqp091.test.support.brokers import BrokerTestCase, queue
from txamqp091.testing._broker.behaviour import Behaviour
from txamqp091.testing._broker.broker import Broker
from txamqp091.testing._broker.refusals import Refused, field_type
from txamqp091.wire import spec
from txamqp091.wire.method import Method

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'."
    " It could be originally declared on another connection or the exclusive property "
    "value does not match that of the original declaration."
)

DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"


def exchange(name: str, type: str = "direct", **fields: object) -> spec.ExchangeDeclare:
    """
    The declaration of an exchange.
    """
    return spec.ExchangeDeclare(0, name, type, **fields)  # type: ignore[arg-type]


class QueueTests(BrokerTestCase):
    """
    Declaring queues.
    """

    def test_declare(self) -> None:
        """
        The reply has the queue's name, its messages and its consumers.
        """
        self.assertEqual(self.channel.tell(queue("q")), [spec.QueueDeclareOk("q")])
        self.channel.publish("", "q")
        self.channel.publish("", "q")
        self.channel.get("q", no_ack=False)
        passive = spec.QueueDeclare(queue="q", passive=True)
        self.assertEqual(self.channel.tell(passive), [spec.QueueDeclareOk("q", 1, 0)])

    def test_no_wait(self) -> None:
        """
        There is no reply to what waits for none.
        """
        self.assertEqual(
            self.channel.tell(spec.QueueDeclare(queue="q", durable=True, no_wait=True)),
            [],
        )
        self.assertEqual(self.broker.queues(), ["q"])

    def test_server_named(self) -> None:
        """
        A queue without a name gets one, and is what "" means from then on.
        """
        (reply,) = self.channel.tell(spec.QueueDeclare(exclusive=True))
        assert isinstance(reply, spec.QueueDeclareOk)
        self.assertRegex(reply.queue, r"^amq\.gen-\d{22}$")
        self.channel.tell(spec.QueueBind(exchange="amq.direct"))
        self.channel.publish("amq.direct", reply.queue, b"bound by its own name")
        self.assertEqual(self.channel.drain(""), [b"bound by its own name"])

    def test_names_are_cleaned(self) -> None:
        """
        Line breaks are dropped from names.
        """
        self.channel.tell(queue("a\r\nb"), exchange("c\nd"))
        self.assertEqual(self.broker.queues(), ["ab"])
        self.assertIn("cd", self.broker.exchanges())

    def test_refused(self) -> None:
        """
        What does not exist, or has a reserved name, is refused.
        """
        for code, text, method in (
            (
                404,
                "NOT_FOUND - no queue 'none' in vhost '/'",
                spec.QueueDeclare(queue="none", passive=True),
            ),
            (404, "NOT_FOUND - no previously declared queue", spec.QueuePurge()),
            (
                403,
                "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'",
                queue("amq.x"),
            ),
        ):
            self.assert_refused(code, text, method)

    def test_invalid_arguments(self) -> None:
        """
        An argument that makes no sense is refused by its name, with RabbitMQ's reason.
        """
        for declaration, problem in (
            (
                queue("q", message_ttl="a"),
                "invalid arg 'x-message-ttl' for {}: \"expected integer, got longstr\"",
            ),
            (
                queue("q", max_length=True),
                "invalid arg 'x-max-length' for {}: \"expected integer, got bool\"",
            ),
            (
                queue("q", max_length=-1),
                "invalid arg 'x-max-length' for {}: {{value_negative,-1}}",
            ),
            (
                queue("q", expires=0),
                "invalid arg 'x-expires' for {}: {{value_zero,0}}",
            ),
            (
                queue("q", expires=10**12),
                "invalid arg 'x-expires' for {}: {{value_too_large,1000000000000}}",
            ),
            (
                queue("q", max_priority=300),
                "invalid arg 'x-max-priority' for {}: {{max_value_exceeded,300}}",
            ),
            (
                queue("q", overflow="burst"),
                "invalid arg 'x-overflow' for {}: invalid_overflow",
            ),
            (
                queue("q", single_active_consumer=1),
                (
                    "invalid arg 'x-single-active-consumer' for {}: "
                    "{{unacceptable_type,signedint}}"
                ),
            ),
            (
                queue("q", dead_letter_routing_key="k"),
                (
                    "invalid arg 'x-dead-letter-routing-key' for {}: "
                    "routing_key_but_no_dlx_defined"
                ),
            ),
            (
                queue("q", dead_letter_exchange=1),
                "invalid type 'signedint' for arg 'x-dead-letter-exchange' in {}",
            ),
            (
                queue("q", type="odd"),
                "invalid arg 'x-queue-type' for {}: \"unsupported queue type 'odd'\"",
            ),
            (
                queue("q", queue_type=1),
                "invalid arg 'x-queue-type' for {}: {{unacceptable_type,signedint}}",
            ),
            (
                queue("q", type="stream", max_age="5x"),
                "invalid arg 'x-max-age' for {}: invalid_max_age",
            ),
            (
                queue("q", type="quorum", max_priority=5),
                "invalid arg 'x-max-priority' for {} of queue type rabbit_quorum_queue",
            ),
            (
                queue("q", delivery_limit=5),
                (
                    "invalid arg 'x-delivery-limit' for {} of queue type "
                    "rabbit_classic_queue"
                ),
            ),
        ):
            text = "PRECONDITION_FAILED - " + problem.format("queue 'q' in vhost '/'")
            self.assert_refused(406, text, declaration)
        self.assertEqual(self.broker.queues(), [])

    def test_replicated(self) -> None:
        """
        A quorum queue and a stream must be durable, for everybody, and stay.
        """
        for fields, name in (
            ({"durable": False}, "non-durable"),
            ({"durable": True, "exclusive": True}, "exclusive-owner"),
            ({"durable": True, "auto_delete": True}, "auto-delete"),
        ):
            self.assert_refused(
                406,
                f"PRECONDITION_FAILED - invalid property '{name}' for queue 'q' in "
                "vhost '/'",
                spec.QueueDeclare(
                    queue="q", arguments={"x-queue-type": "quorum"}, **fields
                ),
            )

    def test_equivalent(self) -> None:
        """
        The same declaration again is fine, also with arguments that nobody knows, and
        with the type that is the default.
        """
        self.channel.tell(queue("q", max_length=5))
        self.channel.tell(
            queue("q", max_length=5),
            queue("q", max_length=5, unknown=1),
            queue("q", max_length=5, type="classic"),
        )

    def test_inequivalent(self) -> None:
        """
        A declaration that differs is refused, naming the first difference.
        """
        self.channel.tell(queue("q", max_length=5, message_ttl=10))
        for declaration, difference in (
            (
                queue("q", max_length=6, message_ttl=10),
                (
                    "'x-max-length' for queue 'q' in vhost '/': received '6' but "
                    "current is '5'"
                ),
            ),
            (
                queue("q", max_length=5),
                (
                    "'x-message-ttl' for queue 'q' in vhost '/': received none but "
                    "current is the value '10' of type 'signedint'"
                ),
            ),
            (
                queue("q", max_length=5, message_ttl=10, max_priority=1),
                (
                    "'x-max-priority' for queue 'q' in vhost '/': received the value "
                    "'1' of type 'signedint' but current is none"
                ),
            ),
            (
                queue("q", max_length=5, message_ttl=10, type="quorum"),
                (
                    "'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but "
                    "current is 'classic'"
                ),
            ),
            (
                spec.QueueDeclare(queue="q", durable=False),
                (
                    "'durable' for queue 'q' in vhost '/': received 'false' but "
                    "current is 'true'"
                ),
            ),
        ):
            self.assert_refused(
                406, f"PRECONDITION_FAILED - inequivalent arg {difference}", declaration
            )

    def test_exclusive(self) -> None:
        """
        An exclusive queue is for its own connection, and stays exclusive.
        """
        self.channel.tell(spec.QueueDeclare(queue="q", exclusive=True))
        other = self.connect()
        methods: list[Method] = [
            spec.QueueDeclare(queue="q", passive=True),
            spec.QueueDeclare(queue="q", exclusive=True),
            spec.QueueDelete(queue="q"),
            spec.QueuePurge(queue="q"),
            spec.QueueBind(queue="q", exchange="amq.direct"),
            spec.BasicConsume(queue="q"),
            spec.BasicGet(queue="q"),
        ]
        for method in methods:
            self.assert_refused(405, LOCKED, method, other.channel())
        self.assert_refused(405, LOCKED, queue("q"))
        other.channel().publish("", "q", b"anybody may publish")
        self.assertEqual(self.channel.drain("q"), [b"anybody may publish"])

    def test_transient(self) -> None:
        """
        A queue that is neither durable nor exclusive is refused if the broker is told
        so.
        """
        self.channel.tell(spec.QueueDeclare(queue="q"))
        self.broker.transient_queues = False
        refused = self.refusal(spec.QueueDeclare(queue="r"))
        self.assertEqual((refused.reply_code, refused.connection), (541, True))
        self.assertIn("transient_nonexcl_queues", refused.reply_text)

    def test_purge(self) -> None:
        """
        Purging drops what is ready, and nothing else.
        """
        self.channel.tell(queue("q"))
        for _ in range(3):
            self.channel.publish("", "q")
        self.channel.get("q", no_ack=False)
        self.assertEqual(
            self.channel.tell(spec.QueuePurge(queue="q")), [spec.QueuePurgeOk(2)]
        )
        self.assertEqual(self.broker.queue("q").unacked, 1)

    def test_delete(self) -> None:
        """
        Deleting counts the messages, asks for conditions, and minds nothing that is not
        there.
        """
        self.channel.tell(queue("q"), spec.BasicConsume(queue="q", consumer_tag="t"))
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - queue 'q' in vhost '/' in use",
            spec.QueueDelete(queue="q", if_unused=True),
        )
        self.channel.tell(spec.BasicCancel("t"))
        self.channel.publish("", "q")
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty",
            spec.QueueDelete(queue="q", if_empty=True),
        )
        delete = spec.QueueDelete(queue="q")
        self.assertEqual(self.channel.tell(delete), [spec.QueueDeleteOk(1)])
        self.assertEqual(self.channel.tell(delete), [spec.QueueDeleteOk(0)])

    def test_delete_with_consumers(self) -> None:
        """
        Consumers are told after the reply, and may settle what they had.
        """
        self.channel.tell(queue("q"), spec.BasicConsume(queue="q", consumer_tag="t"))
        self.channel.publish("", "q", b"out")
        self.channel.take()
        self.assertEqual(
            self.channel.tell(spec.QueueDelete(queue="q")),
            [spec.QueueDeleteOk(0), spec.BasicCancel("t", True)],
        )
        self.channel.tell(spec.BasicNack(1))
        self.assertEqual(self.broker.queues(), [])


class ExchangeTests(BrokerTestCase):
    """
    Declaring exchanges, and binding.
    """

    def test_declare(self) -> None:
        """
        An exchange is declared, again, and asked for.
        """
        ok = spec.ExchangeDeclareOk()
        replies = self.channel.tell(
            exchange("x", "topic"),
            exchange("x", "topic", arguments={"unknown": 1}),
            exchange("x", passive=True),
            exchange("amq.direct", durable=True),
        )
        self.assertEqual(replies, [ok] * 4)

    def test_refused(self) -> None:
        """
        What may not be is refused in RabbitMQ's words.
        """
        self.channel.tell(exchange("x", arguments={"alternate-exchange": "ae"}))
        where = "'x' in vhost '/'"
        for code, text, method in (
            (
                404,
                "NOT_FOUND - no exchange 'none' in vhost '/'",
                exchange("none", passive=True),
            ),
            (403, DEFAULT, exchange("")),
            (403, DEFAULT, spec.ExchangeDelete(exchange="")),
            (403, DEFAULT, spec.ExchangeBind(destination="x")),
            (
                403,
                (
                    "ACCESS_REFUSED - exchange name 'amq.x' contains reserved prefix "
                    "'amq.*'"
                ),
                exchange("amq.x"),
            ),
            (
                403,
                (
                    "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost "
                    "'/' not allowed"
                ),
                spec.ExchangeDelete(exchange="amq.topic"),
            ),
            (
                406,
                "PRECONDITION_FAILED - unknown exchange type 'odd'",
                exchange("y", "odd"),
            ),
            (
                406,
                (
                    f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange "
                    f"{where}: received 'fanout' but current is 'direct'"
                ),
                exchange("x", "fanout"),
            ),
            (
                406,
                (
                    "PRECONDITION_FAILED - inequivalent arg 'internal' for exchange "
                    f"{where}: received 'true' but current is 'false'"
                ),
                exchange("x", internal=True),
            ),
            (
                406,
                (
                    "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for "
                    f"exchange {where}: received none but current is the value 'ae' of "
                    "type 'longstr'"
                ),
                exchange("x"),
            ),
            (
                406,
                (
                    "PRECONDITION_FAILED - invalid type 'signedint' for arg "
                    "'alternate-exchange' in exchange 'y' in vhost '/'"
                ),
                exchange("y", arguments={"alternate-exchange": 1}),
            ),
            (
                404,
                "NOT_FOUND - no exchange 'none' in vhost '/'",
                spec.ExchangeBind(destination="x", source="none"),
            ),
            (
                404,
                "NOT_FOUND - no exchange 'none' in vhost '/'",
                spec.ExchangeBind(destination="none", source="x"),
            ),
        ):
            self.assert_refused(code, text, method)

    def test_delete(self) -> None:
        """
        An exchange in use is kept if asked; what is not there is no matter.
        """
        self.channel.tell(
            exchange("x"), queue("q"), spec.QueueBind(queue="q", exchange="x")
        )
        self.assert_refused(
            406,
            "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use",
            spec.ExchangeDelete(exchange="x", if_unused=True),
        )
        delete = spec.ExchangeDelete(exchange="x")
        self.assertEqual(
            self.channel.tell(delete, delete), [spec.ExchangeDeleteOk()] * 2
        )
        self.assertEqual(self.broker.queue("q").bindings, [])

    def test_bind_refused(self) -> None:
        """
        Both ends of a binding must be there, and the default exchange is neither.
        """
        self.channel.tell(queue("q"))
        for code, text, method in (
            (
                404,
                "NOT_FOUND - no queue 'none' in vhost '/'",
                spec.QueueBind(queue="none", exchange="amq.direct"),
            ),
            (
                404,
                "NOT_FOUND - no exchange 'none' in vhost '/'",
                spec.QueueBind(queue="q", exchange="none"),
            ),
            (403, DEFAULT, spec.QueueBind(queue="q")),
            (403, DEFAULT, spec.QueueUnbind(queue="q")),
            (
                406,
                (
                    'PRECONDITION_FAILED - Invalid x-match field value <<"odd">>; '
                    "expected all, any, all-with-x, or any-with-x"
                ),
                spec.QueueBind(
                    queue="q", exchange="amq.headers", arguments={"x-match": "odd"}
                ),
            ),
            (
                406,
                (
                    "PRECONDITION_FAILED - Invalid x-match field type bool (value "
                    "true); expected longstr"
                ),
                spec.QueueBind(
                    queue="q", exchange="amq.headers", arguments={"x-match": True}
                ),
            ),
        ):
            self.assert_refused(code, text, method)

    def test_unbind_nothing(self) -> None:
        """
        To undo a binding that is not there is no matter.
        """
        self.channel.tell(queue("q"))
        replies = self.channel.tell(
            spec.QueueUnbind(queue="q", exchange="amq.direct", routing_key="k"),
            spec.QueueUnbind(queue="none", exchange="amq.direct", routing_key="k"),
            spec.QueueUnbind(queue="q", exchange="none", routing_key="k"),
            spec.ExchangeUnbind(destination="none", source="amq.direct"),
        )
        self.assertEqual(len(replies), 4)

    def test_auto_delete(self) -> None:
        """
        An auto-delete exchange goes with its last binding, be it undone or the queue
        gone; and so does the one that was bound to it alone.
        """
        self.channel.tell(
            exchange("first", auto_delete=True),
            exchange("second", auto_delete=True),
            queue("q"),
            spec.ExchangeBind(destination="second", source="first"),
            spec.QueueBind(queue="q", exchange="second"),
            spec.QueueDelete(queue="q"),
        )
        self.assertNotIn("first", self.broker.exchanges())
        self.assertNotIn("second", self.broker.exchanges())

    def test_old_unknown_type(self) -> None:
        """
        To RabbitMQ 3.10 an unknown type is a connection error.
        """
        self.broker = Broker(version="3.10.8")
        self.assert_refused(
            503,
            "COMMAND_INVALID - unknown exchange type 'odd'",
            exchange("x", "odd"),
            self.connect().channel(),
            connection=True,
        )


class PermissionTests(BrokerTestCase):
    """
    What a user may not do.
    """

    def test_refused(self) -> None:
        """
        Each method asks for its permission, of the thing that it is about.
        """
        self.channel.tell(queue("mine"), queue("other"), exchange("mine.x"))
        self.broker.add_user("limited", "pw")
        self.broker.set_permissions("limited", "/", "^mine", "^mine", "^mine")
        client = self.connect("limited", "pw")
        for permission, thing, method in (
            ("configure", "queue 'other'", queue("other")),
            ("configure", "queue 'x'", spec.QueueDeclare(queue="x", passive=True)),
            ("configure", "queue 'other'", spec.QueueDelete(queue="other")),
            ("configure", "exchange 'x'", exchange("x")),
            ("configure", "exchange 'x'", exchange("x", passive=True)),
            ("configure", "exchange 'x'", spec.ExchangeDelete(exchange="x")),
            ("read", "queue 'other'", spec.BasicGet(queue="other")),
            ("read", "queue 'other'", spec.BasicConsume(queue="other")),
            ("read", "queue 'other'", spec.QueuePurge(queue="other")),
            (
                "read",
                "exchange 'amq.direct'",
                spec.QueueBind(queue="mine", exchange="amq.direct"),
            ),
            (
                "write",
                "queue 'other'",
                spec.QueueBind(queue="other", exchange="mine.x"),
            ),
            ("write", "exchange 'x'", queue("mine.2", dead_letter_exchange="x")),
            (
                "write",
                "exchange 'x'",
                exchange("mine.3", arguments={"alternate-exchange": "x"}),
            ),
        ):
            self.assert_refused(
                403,
                f"ACCESS_REFUSED - {permission} access to {thing} in vhost '/' refused "
                "for user 'limited'",
                method,
                client.channel(),
            )
        refused = self.assertRaises(Refused, client.channel().publish, "", "mine")
        self.assertEqual(
            refused.reply_text,
            "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' "
            "refused for user 'limited'",
        )

    def test_no_permission_at_all(self) -> None:
        """
        An empty pattern is for no name.
        """
        self.broker.set_permissions("guest", "/", "", "", "")
        self.assertEqual(self.refusal(queue("q")).reply_code, 403)


class WordTests(BrokerTestCase):
    """
    The parts of a refusal.
    """

    def test_long_text(self) -> None:
        """
        A text that is too long for the wire is cut at its end.
        """
        refused = self.refusal(spec.QueuePurge(queue="q" * 255))
        self.assertEqual(len(refused.reply_text), 255)
        self.assertTrue(refused.reply_text.endswith("..."))
        self.assertEqual(str(refused), refused.reply_text)

    def test_field_types(self) -> None:
        """
        The types in tables have RabbitMQ's names.
        """
        for value, name in (
            (None, "void"),
            (True, "bool"),
            (1, "signedint"),
            (1 << 40, "long"),
            (1.5, "double"),
            ("", "longstr"),
            (b"", "binary"),
            (Decimal(1), "decimal"),
            (datetime.now(UTC), "timestamp"),
            ({}, "table"),
            ([], "array"),
        ):
            self.assertEqual(field_type(value), name)

    def test_behaviour(self) -> None:
        """
        Versions between the two that were looked at are like either.
        """
        self.assertEqual(Behaviour.of("3.13").delivery_limit, None)
        self.assertEqual(Behaviour.of("4.0.5").delivery_limit, 20)
        self.assertTrue(Behaviour.of("4.0.5").channel_prefetch)
        self.assertFalse(Behaviour.of("4.3").channel_prefetch)
