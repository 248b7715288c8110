# -*- test-case-name: txamqp091.test.unit.testing.test_broker_queues -*-
"""
Tests for `txamqp091.testing._broker.queues` and `txamqp091.testing._broker.messages`:
how long messages stay in a queue, in which order, and what becomes of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from txamqp091.test.support.brokers import BrokerTestCase, queue
from txamqp091.testing._broker.broker import Broker, Refused
from txamqp091.testing._broker.messages import Death, RequeueReason, is_cycle
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties
from txamqp091.wire.types import FieldValue

NOW = datetime.fromtimestamp(1_700_000_000, UTC)


class OrderTests(BrokerTestCase):
    """
    Which message is next.
    """

    def publish(self, name: str, *bodies: bytes) -> None:
        for body in bodies:
            self.channel.publish("", name, body)

    def fetch(self, *bodies: bytes) -> None:
        """
        Fetch messages, to be settled, and check which ones they are.
        """
        for body in bodies:
            got = self.channel.get("q", no_ack=False)
            assert got is not None
            self.assertEqual(got.body, body)

    def test_requeue_in_place(self) -> None:
        """
        A message that comes back has its old place.
        """
        self.channel.tell(queue("q"))
        self.publish("q", b"0", b"1", b"2", b"3")
        self.fetch(b"0", b"1", b"2")
        self.channel.tell(spec.BasicNack(3), spec.BasicNack(1))
        self.assertEqual(self.broker.queue("q").bodies, [b"0", b"2", b"3"])
        flags = [each.redelivered for each in self.broker.queue("q").messages]
        self.assertEqual(flags, [True, True, False])

    def test_quorum_requeue(self) -> None:
        """
        What comes back to a quorum queue is ahead of the rest, in the order in which it
        came back.
        """
        self.channel.tell(queue("q", type="quorum"))
        self.publish("q", b"0", b"1", b"2", b"3")
        self.fetch(b"0", b"1", b"2")
        self.channel.tell(spec.BasicNack(3), spec.BasicNack(1))
        self.assertEqual(self.broker.queue("q").bodies, [b"2", b"0", b"3"])

    def test_priority(self) -> None:
        """
        A higher priority is first, up to the queue's limit; none is 0.
        """
        self.channel.tell(queue("q", max_priority=3))
        for priority in (None, 1, 9, 2, 3, 0, 1):
            self.channel.publish("", "q", str(priority).encode(), priority=priority)
        self.assertEqual(
            self.channel.drain("q"), [b"9", b"3", b"2", b"1", b"1", b"None", b"0"]
        )

    def test_quorum_priority(self) -> None:
        """
        A quorum queue heeds priorities as they are; none is 4.
        """
        self.channel.tell(queue("q", type="quorum"))
        for priority in (None, 1, 9, 5, 4, 0):
            self.channel.publish("", "q", str(priority).encode(), priority=priority)
        self.assertEqual(
            self.channel.drain("q"), [b"9", b"5", b"None", b"4", b"1", b"0"]
        )

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
    def test_nothing_is_lost(self, priorities: list[int], data: st.DataObject) -> None:
        """
        However messages are fetched and given back, all of them are there in the end,
        in the order of priority and age.
        """
        broker = Broker(Clock())
        broker.declare_queue("q", arguments={"x-max-priority": 3})
        found = broker._vhosts["/"].queues["q"]
        for number, priority in enumerate(priorities):
            body = b"%d" % number
            broker.publish("", "q", body, Properties(priority=priority))
        out = []
        for _ in range(data.draw(st.integers(0, 40))):
            if data.draw(st.booleans()):
                entry = found.fetch(False)
                if entry is not None:
                    out.append(entry)
            elif out:
                place = data.draw(st.integers(0, len(out) - 1))
                self.requeue(found, out.pop(place))
        for entry in out:
            self.requeue(found, entry)
        expected = sorted(
            range(len(priorities)), key=lambda number: (-priorities[number], number)
        )
        self.assertEqual([int(body) for body in broker.queue("q").bodies], expected)
        self.assertEqual(broker.queue("q").unacked, 0)

    def requeue(self, found: Any, entry: Any) -> None:
        found.requeue([entry], RequeueReason.NACK)


class TimeTests(BrokerTestCase):
    """
    What the clock does to messages and queues.
    """

    def ready(self, name: str = "q") -> int:
        return self.broker.queue(name).ready

    def test_message_ttl(self) -> None:
        """
        A message is dropped when the shorter of its own time and the queue's is up.
        """
        self.channel.tell(queue("q", message_ttl=1000))
        self.channel.publish("", "q", expiration="500")
        self.clock.advance(0.4)
        self.assertEqual(self.ready(), 1)
        self.clock.advance(0.1)
        self.assertEqual(self.ready(), 0)
        self.channel.publish("", "q", expiration="5000")
        self.clock.advance(1)
        self.assertEqual(self.ready(), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_expired_behind(self) -> None:
        """
        A message whose time is up waits behind one whose time is not, and counts.
        """
        self.channel.tell(queue("q"))
        self.channel.publish("", "q", b"1", expiration="5000")
        self.channel.publish("", "q", b"2", expiration="50")
        self.clock.advance(1)
        self.assertEqual(self.ready(), 2)
        got = self.channel.get("q")
        assert got is not None and isinstance(got.method, spec.BasicGetOk)
        self.assertEqual(got.method.message_count, 0)

    def test_no_time_at_all(self) -> None:
        """
        A message that may not wait is delivered at once or not at all.
        """
        self.channel.tell(queue("q", message_ttl=0), spec.ConfirmSelect())
        self.channel.publish("", "q", b"1", mandatory=True)
        self.assertEqual(self.channel.methods(), [spec.BasicAck(1)])
        self.assertEqual(self.ready(), 0)
        self.channel.tell(spec.BasicConsume(queue="q", no_ack=True))
        self.channel.publish("", "q", b"2")
        self.assertEqual(self.channel.bodies(), [b"2"])

    def test_out_too_long(self) -> None:
        """
        A message that comes back too late is dropped.
        """
        self.channel.tell(queue("q", message_ttl=100))
        self.channel.publish("", "q")
        self.channel.get("q", no_ack=False)
        self.clock.advance(1)
        self.channel.tell(spec.BasicNack(1))
        self.assertEqual(self.ready(), 0)

    def test_queue_expires(self) -> None:
        """
        A queue goes when nobody has used it for so long; a consumer uses it.
        """
        declare = queue("q", expires=1000)
        self.channel.tell(declare)
        self.clock.advance(0.9)
        self.channel.tell(declare)
        self.clock.advance(0.9)
        self.channel.get("q")
        self.clock.advance(0.9)
        self.channel.tell(spec.BasicConsume(queue="q", consumer_tag="t"))
        self.clock.advance(10)
        self.assertEqual(self.broker.queues(), ["q"])
        self.channel.tell(spec.BasicCancel("t"))
        self.clock.advance(1)
        self.assertEqual(self.broker.queues(), [])

    def test_bad_expirations(self) -> None:
        """
        A time to live that is none is refused.
        """
        for text, problem in (
            ("abc", "no_integer"),
            ("", "no_integer"),
            (" 5", "no_integer"),
            ("-1", "{value_negative,-1}"),
            ("12.5", '{leftover_string,".5"}'),
            ("9" * 14, "{value_too_large," + "9" * 14 + "}"),
        ):
            refused = self.assertRaises(
                Refused, self.client.channel().publish, "", "q", expiration=text
            )
            self.assertEqual(
                str(refused),
                f"PRECONDITION_FAILED - invalid expiration '{text}': {problem}",
            )


class LengthTests(BrokerTestCase):
    """
    Queues that may only get so long.
    """

    def fill(self, declare: spec.QueueDeclare, *bodies: bytes) -> list[bytes]:
        self.channel.tell(declare, spec.ConfirmSelect())
        for body in bodies:
            self.channel.publish("", "q", body)
        return self.broker.queue("q").bodies

    def test_drop_head(self) -> None:
        """
        By default the first message gives way.
        """
        self.assertEqual(
            self.fill(queue("q", max_length=2), b"1", b"2", b"3"), [b"2", b"3"]
        )
        self.assertEqual(self.channel.methods(), [spec.BasicAck(n) for n in (1, 2, 3)])

    def test_bytes(self) -> None:
        """
        Bodies are counted in bytes; one that is too large by itself empties the queue.
        """
        declare = queue("q", max_length_bytes=10)
        self.assertEqual(
            self.fill(declare, b"1" * 4, b"2" * 4, b"3" * 4), [b"2222", b"3333"]
        )
        self.channel.publish("", "q", b"4" * 11)
        self.assertEqual(self.broker.queue("q").bodies, [])

    def test_reject_publish(self) -> None:
        """
        A new message is refused, and not returned.
        """
        declare = queue("q", max_length=1, overflow="reject-publish")
        self.assertEqual(self.fill(declare, b"1", b"2"), [b"1"])
        self.channel.publish("", "q", b"3", mandatory=True)
        self.assertEqual(
            self.channel.methods(),
            [spec.BasicAck(1), spec.BasicNack(2, True), spec.BasicNack(3, True)],
        )

    def test_reject_publish_bytes(self) -> None:
        """
        It is refused for its size, too.
        """
        declare = queue("q", max_length_bytes=3, overflow="reject-publish")
        self.assertEqual(self.fill(declare, b"12", b"34", b"5"), [b"12", b"5"])

    def test_reject_publish_dlx(self) -> None:
        """
        A new message is refused, and dead-lettered.
        """
        self.channel.tell(queue("dead"))
        declare = queue(
            "q",
            max_length=1,
            overflow="reject-publish-dlx",
            dead_letter_exchange="",
            dead_letter_routing_key="dead",
        )
        self.assertEqual(self.fill(declare, b"1", b"2"), [b"1"])
        self.assertEqual(self.channel.drain("dead"), [b"2"])

    def test_quorum_is_late(self) -> None:
        """
        A quorum queue takes one message more than it should before it refuses.
        """
        declare = queue("q", type="quorum", max_length=1, overflow="reject-publish")
        self.assertEqual(self.fill(declare, b"1", b"2", b"3"), [b"1", b"2"])

    def test_unacked_do_not_count(self) -> None:
        """
        What is out does not count, until it comes back.
        """
        self.channel.tell(queue("q", max_length=2))
        for body in (b"0", b"1"):
            self.channel.publish("", "q", body)
            self.channel.get("q", no_ack=False)
        for body in (b"2", b"3", b"4"):
            self.channel.publish("", "q", body)
        self.assertEqual(self.broker.queue("q").bodies, [b"3", b"4"])
        self.channel.tell(spec.BasicNack(0, True))
        self.assertEqual(self.broker.queue("q").bodies, [b"3", b"4"])

    def test_one_of_several_refuses(self) -> None:
        """
        A message that one of its queues refuses is not confirmed, though others have
        it.
        """
        self.channel.tell(
            queue("full", max_length=0, overflow="reject-publish"),
            queue("q"),
            spec.QueueBind(queue="full", exchange="amq.fanout"),
            spec.QueueBind(queue="q", exchange="amq.fanout"),
            spec.ConfirmSelect(),
        )
        self.channel.publish("amq.fanout", "", b"1")
        self.assertEqual(self.channel.methods(), [spec.BasicNack(1, True)])
        self.assertEqual(self.channel.drain("q"), [b"1"])


class DeathTests(BrokerTestCase):
    """
    Dead letters, and what they tell.
    """

    def row(self, **changes: FieldValue) -> dict[str, FieldValue]:
        row: dict[str, FieldValue] = {
            "count": 1,
            "reason": "rejected",
            "queue": "q",
            "time": NOW,
            "exchange": "",
            "routing-keys": ["q"],
        }
        return {
            **row,
            **{key.replace("_", "-"): value for key, value in changes.items()},
        }

    def test_rejected(self) -> None:
        """
        A rejected message goes to the exchange that the queue names, with its own key,
        and tells what happened.
        """
        self.channel.tell(
            queue("q", dead_letter_exchange="amq.fanout"),
            queue("dead"),
            spec.QueueBind(queue="dead", exchange="amq.fanout"),
        )
        self.channel.publish("", "q", b"1", headers={"own": 1}, message_id="m")
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicNack(1, requeue=False))
        got = self.channel.get("dead")
        assert got is not None
        self.assertEqual(got.method, spec.BasicGetOk(2, False, "amq.fanout", "q", 0))
        self.assertEqual(got.properties.message_id, "m")
        self.assertEqual(
            got.headers,
            {
                "own": 1,
                "x-death": [self.row()],
                "x-first-death-queue": "q",
                "x-first-death-reason": "rejected",
                "x-first-death-exchange": "",
                "x-last-death-queue": "q",
                "x-last-death-reason": "rejected",
                "x-last-death-exchange": "",
            },
        )

    def test_expired(self) -> None:
        """
        A message that has expired lives on without its time to live, and remembers it.
        """
        self.channel.tell(
            queue("q", dead_letter_exchange="", dead_letter_routing_key="dead"),
            queue("dead"),
        )
        self.channel.publish("", "q", expiration="1000")
        self.clock.advance(5)
        (message,) = self.broker.queue("dead").messages
        self.assertEqual(message.routing_key, "dead")
        self.assertIsNone(message.properties.expiration)
        headers = message.properties.headers or {}
        rows: Any = headers["x-death"]
        self.assertEqual(headers["x-first-death-reason"], "expired")
        self.assertEqual(rows[0]["original-expiration"], "1000")

    def test_counted(self) -> None:
        """
        Going round is counted by queue and reason; the latest death is first.
        """
        self.channel.tell(
            queue("q", dead_letter_exchange="", dead_letter_routing_key="wait"),
            queue(
                "wait",
                message_ttl=1000,
                dead_letter_exchange="",
                dead_letter_routing_key="q",
            ),
        )
        self.channel.publish("", "q")
        for _ in range(3):
            self.channel.get("q", no_ack=False)
            self.channel.tell(spec.BasicNack(0, True, False))
            self.clock.advance(1)
        (message,) = self.broker.queue("q").messages
        headers = message.properties.headers or {}
        rows: Any = headers["x-death"]
        self.assertEqual(
            [(row["queue"], row["reason"], row["count"]) for row in rows],
            [("wait", "expired", 3), ("q", "rejected", 3)],
        )
        self.assertEqual(headers["x-first-death-queue"], "q")
        self.assertEqual(headers["x-last-death-queue"], "wait")

    def test_cycle(self) -> None:
        """
        A message that goes round by itself is dropped.
        """
        self.channel.tell(
            queue("q", message_ttl=1000, dead_letter_exchange=""),
            queue(
                "a", max_length=0, dead_letter_exchange="", dead_letter_routing_key="b"
            ),
            queue(
                "b", max_length=0, dead_letter_exchange="", dead_letter_routing_key="a"
            ),
        )
        self.channel.publish("", "q")
        self.channel.publish("", "a")
        self.clock.advance(1)
        self.assertEqual([self.broker.queue(name).ready for name in "qab"], [0, 0, 0])

    def test_is_cycle(self) -> None:
        """
        A rejection since the message was last there makes it none.
        """

        def death(name: str, reason: str) -> Death:
            return Death(name, reason, 1, 0, "", ())

        expired, rejected = death("q", "expired"), death("r", "rejected")
        self.assertTrue(is_cycle([expired], "q"))
        self.assertTrue(is_cycle([death("r", "maxlen"), expired], "q"))
        self.assertFalse(is_cycle([rejected, expired], "q"))
        self.assertFalse(is_cycle([expired], "r"))

    def test_no_exchange(self) -> None:
        """
        Without a dead-letter exchange, or where it is not there, the message is gone.
        """
        self.channel.tell(
            queue("q", max_length=0), queue("r", max_length=0, dead_letter_exchange="x")
        )
        self.channel.publish("", "q")
        self.channel.publish("", "r")
        self.assertEqual(len(self.broker.published), 2)

    def test_copies(self) -> None:
        """
        All routing keys count again, and those that a consumer may know are told of.
        """
        self.channel.tell(
            queue("q", dead_letter_exchange="amq.direct"),
            queue("dead"),
            spec.QueueBind(queue="dead", exchange="amq.direct", routing_key="bcc"),
        )
        self.channel.publish("", "q", headers={"CC": ["cc"], "BCC": ["bcc"]})
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicNack(1, requeue=False))
        got = self.channel.get("dead")
        assert got is not None
        self.assertEqual(got.headers["x-death"], [self.row(routing_keys=["q", "cc"])])
        self.assertEqual(got.headers["CC"], ["cc"])

    def test_invented(self) -> None:
        """
        A publisher cannot invent deaths.
        """
        self.channel.tell(
            queue("q", max_length=0, dead_letter_exchange="amq.fanout"),
            queue("dead"),
            spec.QueueBind(queue="dead", exchange="amq.fanout"),
        )
        invented = {"queue": "q", "reason": "maxlen", "count": 7}
        self.channel.publish("", "q", headers={"x-death": [invented]})
        got = self.channel.get("dead")
        assert got is not None
        self.assertEqual(got.headers["x-death"], [self.row(reason="maxlen")])


class OldDeathTests(BrokerTestCase):
    """
    Dead letters, as RabbitMQ 3.10 makes them.
    """

    version = "3.10.8"

    def test_differences(self) -> None:
        """
        Deaths are read from the headers, the last one has none of its own, and a new
        key takes CC away.
        """
        self.channel.tell(
            queue("q", dead_letter_exchange="", dead_letter_routing_key="dead"),
            queue("dead"),
        )
        row: dict[str, FieldValue] = {
            "queue": "q",
            "reason": "rejected",
            "count": 7,
            "time": NOW,
            "exchange": "x",
            "routing-keys": ["k"],
        }
        self.channel.publish("", "q", headers={"x-death": [row, 5], "CC": ["cc"]})
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicReject(1, False))
        got = self.channel.get("dead")
        assert got is not None
        self.assertEqual(got.headers, {"x-death": [{**row, "count": 8}]})
        self.assertEqual(got.method, spec.BasicGetOk(2, False, "", "dead", 0))

    def test_first_death(self) -> None:
        """
        The first death has headers.
        """
        self.channel.tell(
            queue("q", max_length=0, dead_letter_exchange="amq.fanout"),
            queue("dead"),
            spec.QueueBind(queue="dead", exchange="amq.fanout"),
        )
        self.channel.publish("", "q")
        got = self.channel.get("dead")
        assert got is not None
        self.assertEqual(got.headers["x-first-death-reason"], "maxlen")
        self.assertNotIn("x-last-death-reason", got.headers)


class LimitTests(BrokerTestCase):
    """
    Quorum queues, which count deliveries.
    """

    def test_delivery_limit(self) -> None:
        """
        A message that has failed too often is dropped, or dead-lettered; until then it
        says how often that was.
        """
        self.channel.tell(
            queue(
                "q",
                type="quorum",
                delivery_limit=2,
                dead_letter_exchange="",
                dead_letter_routing_key="dead",
            ),
            queue("dead"),
        )
        self.channel.publish("", "q")
        seen = []
        for tag in (1, 2, 3):
            got = self.channel.get("q", no_ack=False)
            assert got is not None
            seen.append(dict(got.headers))
            self.channel.tell(spec.BasicReject(tag))
        self.assertEqual(
            seen,
            [
                {},
                {"x-acquired-count": 1, "x-delivery-count": 1},
                {"x-acquired-count": 2, "x-delivery-count": 2},
            ],
        )
        self.assertEqual(self.broker.queue("q").ready, 0)
        (message,) = self.broker.queue("dead").messages
        headers = message.properties.headers or {}
        self.assertEqual(headers["x-first-death-reason"], "delivery_limit")
        self.assertTrue(message.redelivered)

    def test_default_limit(self) -> None:
        """
        By default a message may fail twenty times.
        """
        self.channel.tell(queue("q", type="quorum"))
        self.channel.publish("", "q")
        for tag in range(1, 22):
            self.assertEqual(self.broker.queue("q").ready, 1, tag)
            self.channel.get("q", no_ack=False)
            self.channel.tell(spec.BasicReject(tag))
        self.assertEqual(self.broker.queue("q").ready, 0)

    def test_what_counts(self) -> None:
        """
        To hand a message back does not count, and neither does recovery; to go away
        with it does.
        """
        self.channel.tell(queue("q", type="quorum", delivery_limit=0))
        self.channel.publish("", "q")
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicNack(1))
        self.channel.get("q", no_ack=False)
        self.channel.tell(spec.BasicRecover(True))
        got = self.channel.get("q", no_ack=False)
        assert got is not None
        self.assertEqual(got.headers, {"x-acquired-count": 2})
        self.channel.broker_side.close()
        self.assertEqual(self.broker.queue("q").ready, 0)

    def test_no_limit(self) -> None:
        """
        A negative limit is none.
        """
        self.channel.tell(queue("q", type="quorum", delivery_limit=-1))
        self.channel.publish("", "q")
        for tag in range(1, 50):
            self.channel.get("q", no_ack=False)
            self.channel.tell(spec.BasicReject(tag))
        self.assertEqual(self.broker.queue("q").ready, 1)


class OldLimitTests(BrokerTestCase):
    """
    Quorum queues, as in RabbitMQ 3.10.
    """

    version = "3.10.8"

    def test_differences(self) -> None:
        """
        There is no limit by default, whatever comes back counts and goes to the end, a
        first delivery that is fetched says so, and priorities are not heeded.
        """
        self.channel.tell(queue("q", type="quorum"))
        self.channel.publish("", "q", b"1")
        self.channel.publish("", "q", b"2", priority=9)
        got = self.channel.get("q", no_ack=False)
        assert got is not None
        self.assertEqual((got.body, got.headers), (b"1", {"x-delivery-count": 0}))
        self.channel.tell(spec.BasicNack(1))
        self.assertEqual(self.broker.queue("q").bodies, [b"2", b"1"])
        for tag in range(2, 50):
            self.channel.get("q", no_ack=False)
            self.channel.tell(spec.BasicNack(tag))
        self.assertEqual(self.broker.queue("q").ready, 2)

    def test_lost_go_first(self) -> None:
        """
        What comes back because its client went is next.
        """
        self.channel.tell(queue("q", type="quorum"))
        self.channel.publish("", "q", b"1")
        self.channel.publish("", "q", b"2")
        self.channel.get("q", no_ack=False)
        self.channel.broker_side.close()
        self.assertEqual(self.broker.queue("q").bodies, [b"1", b"2"])
