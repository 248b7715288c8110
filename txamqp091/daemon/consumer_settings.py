# -*- test-case-name: txamqp091.test.unit.daemon.test_settings -*-
"""
The settings of a consumer of the daemon, and what they ask for: arguments, queues, and
a `HandlerOptions`.
"""

from __future__ import annotations

__all__ = ["ConsumerSettings", "QueueType", "RetryMethod", "RetrySettings"]

from dataclasses import dataclass
from enum import Enum
from typing import Any

from txamqp091.arguments import classic_queue, queue_consumer, quorum_queue
from txamqp091.consumer import DEFAULT_PREFETCH
from txamqp091.daemon.settings_schema import setting
from txamqp091.service import Entity, Queue
from txamqp091.worker.failure_policy import Dead, FailurePolicy, OnError, OnRefused
from txamqp091.worker.handler_runner import HandlerOptions
from txamqp091.worker.retry_queues import RetryQueues
from txamqp091.worker.stream_offsets import StreamOffset

#: How many deliveries without an answer make a message dead, by default.
MAX_DELIVERIES = 20


#: The arguments of a queue that a policy can set as well.  Retries do not need them:
#: delay queues, and the daemon's own counting, do what they do.
_OPTIONAL = frozenset(
    (
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-delivery-limit",
        "x-delayed-retry-min",
        "x-delayed-retry-max",
    )
)


class QueueType(Enum):
    """
    A kind of queue.
    """

    QUORUM = "quorum"
    CLASSIC = "classic"
    #: What the virtual host has by default.
    DEFAULT = "default"


class RetryMethod(Enum):
    """
    Who delays a message that is to be retried.
    """

    QUEUES = "delay-queues"
    BROKER = "broker"


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """
    ``[consumers.retry]``
    """

    delays: tuple[float, ...] = setting(
        "Seconds that a message waits before the second attempt, the third, and so on; "
        "the last one counts for all further attempts.",
        (5.0, 30.0, 120.0, 600.0),
        least=0.001,
        most=315_360_000,
    )
    attempts: int | None = setting(
        "Number of attempts before a message is dead.  Default: one more than the "
        "number of delays.",
        None,
        least=2,
        most=1000,
        reload=True,
    )
    parking: str = setting(
        "The dead-letter queue; the same as ``dead_letter_queue`` of the consumer.",
        "",
    )
    dead_letters: bool = setting(
        "The same as ``dead_letters`` of the consumer.",
        False,
    )
    method: RetryMethod = setting(
        "Where messages wait.  ``delay-queues``: in queues that the daemon declares.  "
        "``broker``: in the consumer's own queue, by ``x-delayed-retry-type``; needs "
        "``declare = true``, a quorum queue, and RabbitMQ 4.3 or later on every node.",
        RetryMethod.QUEUES,
    )
    queue_type: QueueType = setting(
        "The type of the delay queues and the dead-letter queue: ``quorum`` or "
        "``classic``.",
        QueueType.QUORUM,
    )
    max_deliveries: int = setting(
        "How many deliveries that nobody settled make a message dead, before the "
        "handler is called again: the message probably ends the process.  Its handler "
        "runs alone from half of that number on, so that other messages are not "
        "counted out for it.  Only quorum queues count deliveries.  0 is no limit.",
        MAX_DELIVERIES,
        least=0,
        most=1_000_000,
        reload=True,
    )

    @property
    def tries(self) -> int:
        """
        How often a message is tried.
        """
        return len(self.delays) + 1 if self.attempts is None else self.attempts


@dataclass(frozen=True, kw_only=True)
class ConsumerSettings:
    """
    ``[[consumers]]``
    """

    queue: str = setting("The queue to consume from.", variable=False)
    handler: str = setting(
        "The function that is called with each message: ``package.module:function``.",
        variable=False,
    )
    name: str = setting(
        "What logs, metrics and environment variables call the consumer; by default, "
        "the queue.",
        "",
        variable=False,
    )
    prefetch: int = setting(
        "How many messages may be here at a time; 0 is no limit.",
        DEFAULT_PREFETCH,
        least=0,
        most=0xFFFF,
        reload=True,
    )
    concurrency: int | None = setting(
        "How many handlers may run at a time; by default, as many as ``prefetch`` "
        "lets in, and never more than that.",
        None,
        least=1,
        most=0xFFFF,
        reload=True,
    )
    decode: str = setting(
        "``json``, or a function of the body and the properties, as "
        "``package.module:function``: the handler is called with what the function "
        "returns, and the delivery.  A message that cannot be decoded is dead at once.",
        "",
    )
    batch: int = setting(
        "How many messages the handler is called with, in a list; 0 is one message, "
        "and no list.  ``concurrency`` is a number of batches then.",
        0,
        least=0,
        most=0xFFFF,
    )
    batch_wait: float = setting(
        "For how many seconds the first message of a batch waits for others.",
        0.5,
        least=0,
        most=3600,
    )
    middleware: tuple[str, ...] = setting(
        "Functions that are put around the handler, as ``package.module:function``; "
        "the first one is the outermost.",
        (),
        variable=False,
    )
    rate: str = setting(
        "How often the handler is called at most: a number, a slash, and ``s``, ``m``, "
        "``h`` or ``d``, such as ``300/m``.  A message that waits counts as running: "
        "its ``timeout`` has begun.",
        "",
    )
    deduplicate: int = setting(
        "How many message ids are remembered: a message whose ``message_id`` was "
        "handled before is acknowledged without a call of the handler.  0 is none.  "
        "The ids are lost when the daemon ends.",
        0,
        least=0,
        most=100_000_000,
    )
    order_by: str = setting(
        "``routing-key``, or ``header:`` and a name: messages that have the same are "
        "worked on one after another.  By default, all at once.",
        "",
    )
    in_thread: bool = setting(
        "Call the handler in a thread, since it blocks.  It gets at most ``threads`` "
        "of them, together with all other consumers.",
        False,
    )
    timeout: float = setting(
        "How many seconds a handler has before it counts as failed; 0 is no limit.",
        0.0,
        least=0,
        most=31_536_000,
        reload=True,
    )
    on_error: OnError | None = setting(
        "What an exception of the handler means.  ``once-more``: the daemon keeps the "
        "message, calls the handler again after 5 s, and dead-letters the message if "
        "the handler fails again.  ``retry``: the daemon retries the message after "
        "delays, and dead-letters it after the last attempt.  ``reject``: the daemon "
        "dead-letters the message at once.  ``drop``: **the daemon discards the "
        "message** at once.  ``halt``: the message goes back, and the daemon ends.  "
        "Default: ``retry`` if there is a table ``retry``, else ``once-more``.",
        None,
        reload=True,
    )
    dead_letter_queue: str = setting(
        "The queue that dead messages go to, with the error in their headers.  The "
        "daemon declares it.  Default, with ``declare``: the name of the queue and "
        "``.dead``.  Without such a queue, and without ``dead_letters`` or ``on_error "
        '= "drop"``, the daemon does not start.',
        "",
    )
    dead_letters: bool = setting(
        "The queue has a dead-letter exchange that this file does not know of, such as "
        "one that a policy of the broker sets.  The daemon rejects dead messages, and "
        "declares no dead-letter queue.",
        False,
    )
    consumer_timeout: float = setting(
        "The ``consumer_timeout`` of the broker or the queue, in seconds, which is 30 "
        "minutes unless somebody has changed it.  The daemon logs a warning when a "
        "message is not settled after half of that time.  0 means no warning.",
        1800.0,
        least=0,
        most=31_536_000,
        reload=True,
    )
    retry: RetrySettings | None = setting(
        "See ``[consumers.retry]``.", None, variable=False
    )
    declare: bool = setting(
        "Declare the queue, durable, and with all that the rest asks for.", False
    )
    queue_type: QueueType = setting(
        "Which kind of queue is declared: ``quorum``, ``classic``, or the "
        "``default`` of the virtual host.",
        QueueType.QUORUM,
    )
    join_acks: bool = setting(
        "Let the acknowledgements of messages that follow one another leave as one, "
        "where they are settled at the same time.  The broker has less to do; "
        "no acknowledgement waits longer.",
        True,
    )
    exclusive: bool = setting(
        "Let nobody else consume from the queue.  Of several daemons that say so, one "
        "consumes, and the others wait until it has gone.",
        False,
    )
    priority: int = setting(
        "The consumer's priority: those with a higher one get messages first.", 0
    )
    stream_offset: StreamOffset | None = setting(
        "That the queue is a stream, and where to begin in it: ``first``, ``last`` or "
        "``next``; the number of a message; a time, such as ``2026-01-31T12:00:00Z``; "
        "or how long ago, such as ``7D``, ``12h`` or ``30m``.  After a reconnect it "
        "goes on behind the last message before which all were done.",
        None,
    )
    offset_file: str = setting(
        "A file to keep that place in, for the next start of the daemon, which goes on "
        "there.  A relative path begins where this file is.",
        "",
    )
    on_refused: OnRefused = setting(
        "What it means that the broker refuses the consumer: there is no such queue, "
        "or it is not for this user, or not to be consumed from like that.  ``end``: "
        "the daemon ends, with an exit status that says why.  ``wait``: it tries "
        "again, after delays of up to 30 s, and is not ready meanwhile.  "
        "``end-at-start``: the first, until it has consumed once, and the second from "
        "then on.",
        OnRefused.END_AT_START,
    )

    @property
    def label(self) -> str:
        """
        What the consumer is called.
        """
        return self.name or self.queue

    @property
    def says_dead_letters(self) -> bool:
        """
        Whether the settings say that the queue has a dead-letter exchange.
        """
        return self.dead_letters or (self.retry is not None and self.retry.dead_letters)

    @property
    def dead_queue(self) -> str:
        """
        The name of the dead-letter queue; "" if there is none.
        """
        named = self.dead_letter_queue
        if not named and self.retry is not None:
            named = self.retry.parking
        if named or self.says_dead_letters or self.means is OnError.DROP:
            return named
        return f"{self.queue}.dead" if self.declare else ""

    @property
    def means(self) -> OnError:
        """
        What an exception means.
        """
        if self.on_error is not None:
            return self.on_error
        return OnError.ONCE_MORE if self.retry is None else OnError.RETRY

    @property
    def broker_delays(self) -> bool:
        """
        Whether the queue itself delays retries.
        """
        return self.retry is not None and self.retry.method is RetryMethod.BROKER

    def retry_queues(self) -> RetryQueues:
        """
        The queues that failed messages go to.
        """
        retry = self.retry
        if retry is None:
            return RetryQueues(queue=self.queue, dead_letter_queue=self.dead_queue)
        return RetryQueues(
            queue=self.queue,
            delays=() if self.broker_delays else retry.delays,
            dead_letter_queue=self.dead_queue,
            queue_type=retry.queue_type.value,
        )

    def handler_options(self, log_messages: bool = False) -> HandlerOptions:
        """
        How messages are handled.

        :param log_messages: whether successes are logged too.
        """
        retry = self.retry
        policy = FailurePolicy(
            on_error=self.means,
            attempts=1 if retry is None else retry.tries,
            delays=() if retry is None else retry.delays,
            on_dead=self._on_dead(),
            max_deliveries=MAX_DELIVERIES if retry is None else retry.max_deliveries,
        )
        return HandlerOptions(
            stream=self.stream_offset is not None,
            consumer=self.label,
            policy=policy,
            retry_queues=self.retry_queues(),
            concurrency=self.prefetch if self.concurrency is None else self.concurrency,
            order_by=self.order_by,
            timeout=self.timeout,
            log_messages=log_messages,
            consumer_timeout=self.consumer_timeout,
        )

    def _on_dead(self) -> Dead:
        """
        What happens to a dead message.
        """
        if self.means is OnError.DROP:
            return Dead.DROP
        if self.dead_queue:
            return Dead.QUEUE
        if self.means is OnError.HALT and not self.says_dead_letters:
            return Dead.HALT
        return Dead.EXCHANGE

    def arguments(self) -> dict[str, Any]:
        """
        The arguments of the consumer.
        """
        arguments = queue_consumer(priority=self.priority or None)
        if self.stream_offset is not None:
            arguments |= self.stream_offset.arguments()
        return arguments

    def entities(self) -> list[Entity]:
        """
        What has to be declared.
        """
        entities: list[Entity] = []
        if self.declare:
            entities.append(
                Queue(name=self.queue, arguments=self._arguments(), optional=_OPTIONAL)
            )
        return entities + self.retry_queues().entities()

    def _arguments(self) -> dict[str, Any]:
        retry = self.retry
        dead: dict[str, Any] = {}
        if self.dead_queue:
            # The broker dead-letters, too: what exceeds the delivery limit.
            dead = {
                "dead_letter_exchange": "",
                "dead_letter_routing_key": self.dead_queue,
            }
        match self.queue_type:
            case QueueType.CLASSIC:
                return classic_queue(**dead)
            case QueueType.DEFAULT:
                return {f"x-{name.replace('_', '-')}": dead[name] for name in dead}
        tries, most = 0, MAX_DELIVERIES
        if retry is not None:
            tries, most = retry.tries, retry.max_deliveries
        if retry is not None and self.broker_delays:
            dead["delayed_retry_type"] = "failed"
            dead["delayed_retry_min"] = min(retry.delays)
            dead["delayed_retry_max"] = max(retry.delays)
        # The daemon counts deliveries, and dead-letters before the broker does.
        return quorum_queue(delivery_limit=max(tries, most, 20) + 5, **dead)
