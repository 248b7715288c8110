# -*- test-case-name: txamqp091.test.scenarios.test_queue_arguments -*-
"""
Scenarios: the arguments of queues: which make sense, and which are the same.

What they do is in `txamqp091.test.scenarios.test_limits`, and in the modules on dead
letters, priorities, quorum queues and streams.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire.types import Int8


@every_peer
class EquivalenceScenarios(Scenario):
    """
    406: a queue exists, and is not as it is declared.
    """

    async def differs(
        self,
        existing: dict[str, Any],
        declared: dict[str, Any],
        text: str,
        exclusive: bool = True,
    ) -> None:
        """
        Declare a queue, and see it refused when it is declared otherwise.
        """
        channel = await self.channel()
        queue = self.name()
        if not exclusive:
            self.addCleanup(self._delete_queue, queue)
        await channel.queue_declare(queue, exclusive=exclusive, **existing)
        call = channel.queue_declare(queue, exclusive=exclusive, **declared)
        await self.channel_refused(
            channel,
            call,
            406,
            "queue.declare",
            text.format(f"queue '{queue}' in vhost '{self.vhost}'"),
        )

    async def test_durable(self) -> None:
        """
        It is durable, and was not to be.
        """
        channel = await self.channel()
        queue = await self.durable_queue(channel)
        call = channel.queue_declare(queue, durable=False)
        text = (
            f"inequivalent arg 'durable' for queue '{queue}' in vhost '{self.vhost}': "
            "received 'false' but current is 'true'"
        )
        await self.channel_refused(channel, call, 406, "queue.declare", text)

    async def test_exclusive_and_durable(self) -> None:
        """
        What is exclusive is not durable, whatever it is declared to be.
        """
        channel = await self.channel()
        queue = self.name()
        await channel.queue_declare(queue, exclusive=True, durable=True)
        await channel.queue_declare(queue, exclusive=True, durable=False)

    async def test_auto_delete(self) -> None:
        """
        It deletes itself, or does not.
        """
        await self.differs(
            {"auto_delete": True},
            {"auto_delete": False},
            "inequivalent arg 'auto_delete' for {}: "
            "received 'false' but current is 'true'",
        )

    async def test_argument_added(self) -> None:
        """
        It has not got the argument.
        """
        await self.differs(
            {},
            {"arguments": {"x-max-length": 5}},
            "inequivalent arg 'x-max-length' for {}: received the value '5' of "
            "type 'signedint' but current is none",
        )

    async def test_argument_missing(self) -> None:
        """
        It has got an argument, which was not given.
        """
        await self.differs(
            {"arguments": {"x-message-ttl": 5000}},
            {},
            "inequivalent arg 'x-message-ttl' for {}: received none but current is "
            "the value '5000' of type 'signedint'",
        )

    async def test_argument_differs(self) -> None:
        """
        It has another value.
        """
        await self.differs(
            {"arguments": {"x-expires": 60000}},
            {"arguments": {"x-expires": 70000}},
            "inequivalent arg 'x-expires' for {}: received '70000' but current is "
            "'60000'",
        )

    async def test_text_differs(self) -> None:
        """
        So too with text.
        """
        await self.differs(
            {"arguments": {"x-dead-letter-exchange": "one"}},
            {"arguments": {"x-dead-letter-exchange": "other"}},
            "inequivalent arg 'x-dead-letter-exchange' for {}: received 'other' but "
            "current is 'one'",
        )

    async def test_delayed_retry(self) -> None:
        """
        Its messages wait otherwise, with 4.3.
        """
        one = {"x-queue-type": "quorum", "x-delayed-retry-min": 5}
        other = {"x-queue-type": "quorum", "x-delayed-retry-min": 6}
        if self.by_version({"3.10": True, "4.3": False}):
            channel = await self.channel()
            queue = await self.durable_queue(channel, one)
            await channel.queue_declare(queue, arguments=other)
            return
        await self.differs(
            {"arguments": one},
            {"arguments": other},
            "inequivalent arg 'x-delayed-retry-min' for {}: received '6' but current "
            "is '5'",
            exclusive=False,
        )

    async def test_type_of_queue(self) -> None:
        """
        It is of another type.
        """
        await self.differs(
            {"arguments": {"x-queue-type": "quorum"}},
            {"arguments": {"x-queue-type": "classic"}},
            "inequivalent arg 'x-queue-type' for {}: received 'classic' but current "
            "is 'quorum'",
            exclusive=False,
        )

    async def test_exclusive(self) -> None:
        """
        405: it is exclusive, and declared as if it were not.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        call = channel.queue_declare(queue, durable=True)
        text = f"cannot obtain exclusive access to locked queue '{queue}'"
        await self.channel_refused(channel, call, 405, "queue.declare", text)

    async def test_not_exclusive(self) -> None:
        """
        405: it is not exclusive, and declared as if it were.
        """
        channel = await self.channel()
        queue = await self.durable_queue(channel)
        call = channel.queue_declare(queue, durable=True, exclusive=True)
        text = f"cannot obtain exclusive access to locked queue '{queue}'"
        await self.channel_refused(channel, call, 405, "queue.declare", text)

    async def test_equal_numbers(self) -> None:
        """
        A number of another width is the same number.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-length": 5})
        await channel.queue_declare(
            queue, exclusive=True, arguments={"x-max-length": Int8(5)}
        )


@every_peer
class ArgumentScenarios(Scenario):
    """
    406: an argument has a value that makes no sense; the broker names it.
    """

    async def invalid(self, arguments: dict[str, Any], text: str) -> None:
        """
        See a queue refused for its arguments.
        """
        channel = await self.channel()
        queue = self.name()
        call = channel.queue_declare(queue, arguments=arguments)
        name = next(iter(arguments))
        await self.channel_refused(
            channel,
            call,
            406,
            "queue.declare",
            f"invalid arg '{name}' for queue '{queue}' in vhost '{self.vhost}': {text}",
        )

    async def test_ttl_type(self) -> None:
        """
        A time to live is a number.
        """
        await self.invalid({"x-message-ttl": "1000"}, '"expected integer, got longstr"')

    async def test_names_of_types(self) -> None:
        """
        The broker names the type that a value has.
        """
        for value, name in (
            (None, "void"),
            (1.5, "double"),
            (Decimal("1.5"), "decimal"),
            (datetime.now(UTC), "timestamp"),
            ({}, "table"),
            ([], "array"),
            (b"", "binary"),
        ):
            await self.invalid(
                {"x-max-length": value}, f'"expected integer, got {name}"'
            )

    async def test_text(self) -> None:
        """
        Other arguments are text, or a flag.
        """
        for name in (
            "x-dead-letter-routing-key",
            "x-overflow",
            "x-queue-type",
            "x-single-active-consumer",
        ):
            await self.invalid({name: 5}, "{unacceptable_type,signedint}")

    async def test_values(self) -> None:
        """
        Some texts and numbers are values, and others are none.
        """
        for kind, name, value, text in (
            ("quorum", "x-dead-letter-strategy", "x", "invalid_dlx_strategy"),
            ("quorum", "x-quorum-initial-group-size", 0, "{value_zero,0}"),
            ("quorum", "x-queue-leader-locator", "x", "invalid_queue_locator_arg"),
            ("stream", "x-initial-cluster-size", 0, "{value_zero,0}"),
            ("stream", "x-max-age", "0D", "invalid_max_age"),
            ("classic", "x-queue-version", 3, "\"unsupported queue version '3'\""),
            ("classic", "x-queue-version", -1, "{value_negative,-1}"),
        ):
            await self.invalid({name: value, "x-queue-type": kind}, text)

    async def test_values_of_versions(self) -> None:
        """
        Which they are depends on the version.
        """
        old = self.by_version({"3.10": True, "4.3": False})
        if old:
            await self.invalid({"x-queue-mode": "x"}, "\"unsupported queue mode 'x'\"")
        else:
            await self.invalid(
                {"x-queue-version": 1}, "\"unsupported queue version '1'\""
            )
        channel = await self.channel()
        taken: dict[str, Any]
        for taken in self.by_version(
            {
                "3.10": (
                    {"x-queue-mode": "lazy"},
                    {"x-queue-version": 1},
                    {"x-consumer-timeout": "x"},
                    {"x-stream-filter-size-bytes": "x"},
                    {"x-queue-type": "quorum", "x-delayed-retry-type": 5},
                ),
                "4.3": (
                    {"x-queue-mode": 5},
                    {"x-queue-version": 2},
                    {"x-queue-leader-locator": "min-masters"},
                    {"x-queue-type": ""},
                    {"x-queue-type": "quorum", "x-consumer-timeout": 10**12},
                    {"x-queue-type": "quorum", "x-delayed-retry-type": 5},
                    {"x-queue-type": "stream", "x-stream-filter-size-bytes": 16},
                ),
            }
        ):
            await self.durable_queue(channel, taken)

    async def test_sizes(self) -> None:
        """
        Sizes of a stream have limits.
        """
        cases = [
            (
                "x-stream-max-segment-size-bytes",
                3_000_000_001,
                "Exceeded max value for x-stream-max-segment-size-bytes",
            )
        ]
        if self.by_version({"3.10": False, "4.3": True}):
            cases += [
                (
                    "x-stream-filter-size-bytes",
                    size,
                    "Invalid value for x-stream-filter-size-bytes",
                )
                for size in (15, 256)
            ]
        for name, value, text in cases:
            channel = await self.channel()
            call = channel.queue_declare(
                self.name(), arguments={"x-queue-type": "stream", name: value}
            )
            await self.channel_refused(channel, call, 406, "queue.declare", text)

    async def test_any_limit(self) -> None:
        """
        A delivery limit may be anything; what is no number does not count.
        """
        channel = await self.channel()
        await self.quorum_queue(channel, delivery_limit="x")

    async def test_ttl_negative(self) -> None:
        """
        And not negative.
        """
        await self.invalid({"x-message-ttl": -1}, "{value_negative,-1}")

    async def test_expires_zero(self) -> None:
        """
        A queue does not expire at once.
        """
        await self.invalid({"x-expires": 0}, "{value_zero,0}")

    async def test_too_long(self) -> None:
        """
        Nor after more than ten years.
        """
        await self.invalid({"x-expires": 10**12}, "{value_too_large,1000000000000}")

    async def test_length_type(self) -> None:
        """
        A length is a number.
        """
        await self.invalid({"x-max-length": True}, '"expected integer, got bool"')

    async def test_overflow(self) -> None:
        """
        There are three kinds of overflow.
        """
        await self.invalid({"x-overflow": "burst"}, "invalid_overflow")

    async def test_priority(self) -> None:
        """
        Priorities end at 255.
        """
        await self.invalid({"x-max-priority": 256}, "{max_value_exceeded,256}")

    async def test_dead_letter_key_alone(self) -> None:
        """
        A routing key for dead letters wants an exchange.
        """
        await self.invalid(
            {"x-dead-letter-routing-key": "k"}, "routing_key_but_no_dlx_defined"
        )

    async def test_queue_type(self) -> None:
        """
        There are three types of queues.
        """
        await self.invalid(
            {"x-queue-type": "no-such"}, "\"unsupported queue type 'no-such'\""
        )

    async def test_not_for_type(self) -> None:
        """
        An argument that the type of queue does not have, whatever its value.
        """
        cases: list[tuple[str, str, object]] = [
            ("quorum", "x-max-priority", 5),
            ("quorum", "x-max-priority", "no number"),
            ("quorum", "x-max-age", "1D"),
            ("stream", "x-message-ttl", -1),
            ("stream", "x-dead-letter-routing-key", "k"),
            ("classic", "x-delivery-limit", 5),
        ]
        if self.by_version({"3.10": True, "4.3": False}):
            cases += [("classic", "x-queue-leader-locator", "balanced")]
        else:
            cases += [
                ("classic", "x-consumer-timeout", 1000),
                ("stream", "x-delayed-retry-type", "all"),
                ("quorum", "x-stream-filter-size-bytes", 16),
            ]
        for kind, name, value in cases:
            channel = await self.channel()
            queue = self.name()
            call = channel.queue_declare(
                queue, arguments={"x-queue-type": kind, name: value}
            )
            text = (
                f"invalid arg '{name}' for queue '{queue}' in vhost '{self.vhost}' of "
                f"queue type rabbit_{kind}_queue"
            )
            await self.channel_refused(channel, call, 406, "queue.declare", text)
