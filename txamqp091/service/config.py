# -*- test-case-name: txamqp091.test.test_config -*-
"""
The settings of the daemon: what there is, what it means, and what goes together.

Where they come from is in `txamqp091.service.merging`; who the broker is, with
passwords, in `txamqp091.service.logins`.
"""

from __future__ import annotations

__all__ = [
    "ConsumerSettings",
    "LogFormat",
    "LogSettings",
    "LogThreshold",
    "QueueType",
    "RetryMethod",
    "RetrySettings",
    "Settings",
    "check",
]

from dataclasses import dataclass
from enum import Enum
from typing import Any

from txamqp091.arguments import classic_queue, queue_consumer, quorum_queue
from txamqp091.consumer import DEFAULT_PREFETCH
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.checking import (
    Problem,
    setting,
)
from txamqp091.service.delays import RetryPlan, broker_delays
from txamqp091.service.offsets import StreamOffset
from txamqp091.service.policy import OnError, OnRefused, Policy
from txamqp091.service.tokens import TokenSettings, check_token
from txamqp091.service.topology import Entity, Queue, Topology
from txamqp091.service.work import Job

# How often a quorum queue that we declare may deliver a message, at least: it counts
# more than failures of handlers.
_DELIVERY_LIMIT = 20


class LogFormat(Enum):
    """
    What a line of the log looks like.
    """

    TEXT = "text"
    JSON = "json"


class LogThreshold(Enum):
    """
    How bad an event has to be to be logged.
    """

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    CRITICAL = "critical"


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

    AUTO = "auto"
    QUEUES = "delay-queues"
    BROKER = "broker"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """
    ``[log]``
    """

    format: LogFormat = setting(
        "``text``, or ``json``: one JSON object a line.", LogFormat.TEXT
    )
    level: LogThreshold = setting(
        "What is less than this is not logged.", LogThreshold.INFO, reload=True
    )
    messages: bool = setting(
        "Log each message that was worked on, not only those that failed.",
        False,
        reload=True,
    )


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """
    ``[consumers.retry]``
    """

    delays: tuple[float, ...] = setting(
        "How many seconds a message waits before it is tried the second time, the "
        "third, and so on; the last one counts for all further tries.",
        (5.0, 30.0, 120.0, 600.0),
        least=0.001,
        most=315_360_000,
    )
    attempts: int | None = setting(
        "How often a message is tried before it is dead; by default once more than "
        "there are delays.",
        None,
        least=2,
        most=1000,
        reload=True,
    )
    parking: str = setting(
        "The queue that dead messages go to, with the error in their headers.  It is "
        "declared.",
        "",
    )
    dead_letters: bool = setting(
        "That the consumer's queue has a dead-letter exchange which this file does not "
        "know of, by a policy of the broker: then no parking queue is needed.",
        False,
    )
    method: RetryMethod = setting(
        "Who delays: ``delay-queues``, which are declared; or the ``broker``, with "
        "quorum queues of RabbitMQ 4.3 and later that have ``x-delayed-retry-type``.  "
        "``auto`` leaves it to the broker if it can, and if ``declare`` says that the "
        "queue is ours; there are no delay queues then.",
        RetryMethod.AUTO,
    )
    queue_type: QueueType = setting(
        "The kind of the delay queues and the parking queue: ``quorum`` or "
        "``classic``.",
        QueueType.QUORUM,
    )
    max_deliveries: int = setting(
        "How many deliveries that nobody answered make a message dead without being "
        "tried again: it ends the process that works on it.  Only quorum queues count "
        "them.  0 is no limit.",
        20,
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
        "What an exception of the handler means.  ``once-more``: the message goes back "
        "to its queue the first time, and is dead the second time.  ``retry``: it is "
        "tried again after delays.  ``reject``: it is dead at once.  ``halt``: it goes "
        "back, and the daemon ends.  By default ``retry`` if there is a table "
        "``retry``, else ``once-more``.",
        None,
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
    exclusive: bool = setting("Let nobody else consume from the queue.", False)
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
    def means(self) -> OnError:
        """
        What an exception means.
        """
        if self.on_error is not None:
            return self.on_error
        return OnError.ONCE_MORE if self.retry is None else OnError.RETRY

    def may_leave_it_to_the_broker(self) -> bool:
        """
        Whether the queue is to delay by itself, if the broker can.
        """
        return (
            self.retry is not None
            and self.retry.method is not RetryMethod.QUEUES
            and self.declare
            and self.queue_type is QueueType.QUORUM
        )

    def plan(self) -> RetryPlan:
        """
        Where failed messages go.
        """
        retry = self.retry
        if retry is None:
            return RetryPlan(queue=self.queue)
        method = retry.method
        return RetryPlan(
            queue=self.queue,
            delays=() if method is RetryMethod.BROKER else retry.delays,
            parking=retry.parking,
            queue_type=retry.queue_type.value,
        )

    def job(self, log: LogSettings) -> Job:
        """
        How the messages are worked on.
        """
        retry = self.retry
        policy = Policy(on_error=self.means)
        if retry is not None:
            policy = Policy(
                on_error=self.means,
                attempts=retry.tries,
                delays=retry.delays,
                parks=bool(retry.parking),
                max_deliveries=retry.max_deliveries,
            )
        return Job(
            stream=self.stream_offset is not None,
            consumer=self.label,
            policy=policy,
            plan=self.plan(),
            concurrency=self.prefetch if self.concurrency is None else self.concurrency,
            order_by=self.order_by,
            timeout=self.timeout,
            log_messages=log.messages,
        )

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
            entities.append(Queue(name=self.queue, arguments=self._arguments()))
        return entities + self.plan().entities()

    def _arguments(self) -> dict[str, Any]:
        retry = self.retry
        dead: dict[str, Any] = {}
        if retry is not None and retry.parking:
            dead = {
                "dead_letter_exchange": "",
                "dead_letter_routing_key": retry.parking,
            }
        match self.queue_type:
            case QueueType.CLASSIC:
                return classic_queue(**dead)
            case QueueType.DEFAULT:
                return {f"x-{name.replace('_', '-')}": dead[name] for name in dead}
        if retry is None:
            return quorum_queue(**dead)
        if self.may_leave_it_to_the_broker():
            # Older brokers do not heed these.
            dead["delayed_retry_type"] = "failed"
            dead["delayed_retry_min"] = min(retry.delays)
            dead["delayed_retry_max"] = max(retry.delays)
        limit = max(_DELIVERY_LIMIT, retry.tries + 5, retry.max_deliveries + 5)
        return quorum_queue(delivery_limit=limit, **dead)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    The top of the file.
    """

    uri: tuple[str, ...] = setting(
        "Where the broker is: ``amqp://`` or ``amqps://``; a list of several for "
        "the nodes of a cluster.",
        (),
        secret=True,
        variable=False,
    )
    uri_file: str = setting(
        "A file with that.  A relative path is that of a credential of systemd, or "
        "begins where this file is.",
        "",
        variable=False,
    )
    password_file: str = setting(
        "A file with the password; the path is as with ``uri_file``.",
        "",
        variable=False,
    )
    token: TokenSettings | None = setting("See ``[token]``.", None, variable=False)
    name: str = setting(
        "What RabbitMQ calls the connection; by default, ``amqp-consumer`` and the "
        "queues.",
        "",
    )
    shutdown_timeout: float = setting(
        "How many seconds running handlers have to finish when the daemon stops.",
        30.0,
        least=0,
        most=86_400,
    )
    give_up_after: float = setting(
        "After how many seconds without a connection the daemon ends; 0 is never.",
        0.0,
        least=0,
        most=31_536_000,
    )
    threads: int = setting(
        "How many threads there may be for handlers with ``in_thread``.",
        10,
        least=1,
        most=1000,
    )
    admin: str = setting(
        "Where ``/live``, ``/ready`` and ``/metrics`` are to be had: an endpoint "
        "such as ``tcp:9419:interface=127.0.0.1``.  By default, nowhere.",
        "",
    )
    metrics: bool = setting(
        "Whether ``/metrics`` is there; it needs ``txamqp091[metrics]``.", False
    )
    tracing: bool = setting(
        "Whether there are OpenTelemetry spans; it needs ``txamqp091[otel]``.", False
    )
    stalled_after: float = setting(
        "After how many seconds a consumer is not ready any more whose handlers all "
        "run, and none has ended; 0 is never.",
        300.0,
        least=0,
        most=31_536_000,
        reload=True,
    )
    log: LogSettings = setting("See ``[log]``.", LogSettings())
    consumers: tuple[ConsumerSettings, ...] = setting("See ``[[consumers]]``.", ())
    exchanges: tuple[dict[str, Any], ...] = setting(
        "Exchanges to declare: ``name``, ``type``, ``durable``, ``auto_delete``, "
        "``internal`` and ``arguments``.",
        (),
        variable=False,
    )
    queues: tuple[dict[str, Any], ...] = setting(
        "Queues to declare: ``name``, ``durable``, ``exclusive``, ``auto_delete`` and "
        "``arguments``.",
        (),
        variable=False,
    )
    bindings: tuple[dict[str, Any], ...] = setting(
        "Bindings to make: ``source``, ``queue`` (or ``exchange``), ``routing_key`` "
        "and ``arguments``.",
        (),
        variable=False,
    )

    def topology(self) -> Topology:
        """
        All that is to be declared.
        """
        topology = Topology.from_dict(
            {
                "exchanges": list(self.exchanges),
                "queues": list(self.queues),
                "bindings": list(self.bindings),
            }
        )
        for consumer in self.consumers:
            topology = topology.with_(*consumer.entities())
        return topology

    def adapt(self, connection: AMQPProtocol, topology: Topology) -> Topology:
        """
        Leave out the delay queues that a broker has no need of.
        """
        needless: list[Entity] = []
        for consumer in self.consumers:
            if consumer.may_leave_it_to_the_broker():
                needless += consumer.plan().delaying()
        if broker_delays(connection.server_properties):
            return topology.without(*needless)
        return topology.with_(*needless)


# -- what goes together --------------------------------------------------------------


def check(settings: Settings) -> None:
    """
    See whether the settings go together.

    :raises Problem: they do not.
    """
    if not settings.consumers:
        raise Problem("consumers", "there are none")
    if settings.token is not None:
        if settings.password_file:
            raise Problem("password_file", "there is a token too")
        check_token(settings.token)
    try:
        declared = Topology.from_dict(
            {
                "exchanges": list(settings.exchanges),
                "queues": list(settings.queues),
                "bindings": list(settings.bindings),
            }
        )
    except (ValueError, TypeError) as error:
        path, _, text = str(error).partition(": ")
        raise Problem(path, text or "it is not understood") from None
    labels: set[str] = set()
    for place, consumer in enumerate(settings.consumers):
        path = f"consumers[{place}]"
        if consumer.label in labels:
            raise Problem(
                f"{path}.name",
                f"there is a consumer {consumer.label!r} before this one: give them "
                "different names",
            )
        labels.add(consumer.label)
        _check_consumer(consumer, path, declared)
    try:
        settings.topology()
    except ValueError as error:
        raise Problem("consumers", str(error)) from None


def _check_consumer(consumer: ConsumerSettings, path: str, declared: Topology) -> None:
    limit, prefetch = consumer.concurrency, consumer.prefetch
    if limit is not None and prefetch and limit > prefetch:
        raise Problem(
            f"{path}.concurrency",
            f"is {limit}, more than prefetch, which is {prefetch}: the rest would "
            "never have a message",
        )
    order = consumer.order_by
    if order and order != "routing-key" and not order.removeprefix("header:"):
        raise Problem(f"{path}.order_by", "lacks the name of the header")
    if order and order != "routing-key" and not order.startswith("header:"):
        raise Problem(
            f"{path}.order_by", f"is {order!r}, neither routing-key nor header:NAME"
        )
    if consumer.declare and declared.queue(consumer.queue) is not None:
        raise Problem(
            f"{path}.declare", f"the queue {consumer.queue!r} is among the queues too"
        )
    _check_stream(consumer, path, declared)
    retry = consumer.retry
    if retry is None:
        if consumer.means is OnError.RETRY:
            raise Problem(
                f"{path}.on_error",
                'is "retry", and there is no table retry that says where dead '
                "messages go",
            )
        return
    path = f"{path}.retry"
    if not retry.delays:
        raise Problem(f"{path}.delays", "there are none")
    if retry.queue_type is QueueType.DEFAULT:
        raise Problem(f"{path}.queue_type", "is neither quorum nor classic")
    if retry.parking == consumer.queue:
        raise Problem(f"{path}.parking", "is the consumer's own queue")
    if not retry.parking and not retry.dead_letters:
        queue = declared.queue(consumer.queue)
        if queue is None or "x-dead-letter-exchange" not in queue.arguments:
            raise Problem(
                f"{path}.parking",
                "is missing: a message that has failed for the last time would be "
                "lost.  Name a queue for such messages; or say dead_letters = true, "
                "if the queue has a dead-letter exchange by a policy of the broker",
            )
    if retry.method is RetryMethod.BROKER and not consumer.may_leave_it_to_the_broker():
        raise Problem(
            f"{path}.method",
            'is "broker", which needs declare = true and a quorum queue',
        )


def _check_stream(consumer: ConsumerSettings, path: str, declared: Topology) -> None:
    """
    See whether a stream is treated as one: it takes nothing back.
    """
    queue = declared.queue(consumer.queue)
    if consumer.stream_offset is None:
        if queue is not None and queue.is_stream:
            raise Problem(
                f"{path}.stream_offset",
                f"is missing: the queue {consumer.queue!r} is a stream",
            )
        if consumer.offset_file:
            raise Problem(f"{path}.offset_file", "is for streams: see stream_offset")
        return
    if consumer.declare:
        raise Problem(
            f"{path}.declare",
            "is not for streams: declare it among the queues, with how much it keeps",
        )
    if queue is not None and not queue.is_stream:
        raise Problem(
            f"{path}.stream_offset", f"the queue {consumer.queue!r} is no stream"
        )
    if not consumer.prefetch:
        raise Problem(f"{path}.prefetch", "is 0, and a stream needs a limit")
    if consumer.retry is not None:
        raise Problem(f"{path}.retry", "is not for streams, which take nothing back")
    if consumer.on_error not in (OnError.REJECT, OnError.HALT):
        raise Problem(
            f"{path}.on_error",
            'has to be "reject", to go on without what failed, or "halt": a stream '
            "takes nothing back",
        )
