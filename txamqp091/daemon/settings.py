# -*- test-case-name: txamqp091.test.unit.daemon.test_settings -*-
"""
The settings of the daemon: `Settings`, and the rules that settings follow together.

The settings of a consumer are in `txamqp091.daemon.consumer_settings`.
`txamqp091.daemon.settings_loading` reads settings, and
`txamqp091.daemon.broker_login` finds the broker's URI and password.
"""

from __future__ import annotations

__all__ = [
    "LogFormat",
    "LogSettings",
    "LogThreshold",
    "ReconnectSettings",
    "Settings",
]

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

from txamqp091.daemon.consumer_settings import (
    ConsumerSettings,
    QueueType,
    RetryMethod,
    RetrySettings,
)
from txamqp091.daemon.settings_schema import Problem, setting
from txamqp091.daemon.tokens import TokenSettings, check_token
from txamqp091.service import Queue, Topology
from txamqp091.worker.failure_policy import OnError
from txamqp091.worker.rate_limit import is_rate


class LogFormat(Enum):
    """
    The format of the log.
    """

    TEXT = "text"
    JSON = "json"


class LogThreshold(Enum):
    """
    The level below which nothing is logged.
    """

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """
    ``[log]``
    """

    format: LogFormat = setting(
        "``text``, or ``json``: one JSON object a line.", LogFormat.TEXT
    )
    level: LogThreshold = setting(
        "Level below which nothing is logged.", LogThreshold.INFO, reload=True
    )
    messages: bool = setting(
        "Log each message that was handled, not only those that failed.",
        False,
        reload=True,
    )


@dataclass(frozen=True, kw_only=True)
class ReconnectSettings:
    """
    ``[reconnect]``
    """

    initial_delay: float = setting(
        "Delay in seconds before the first attempt to connect again.  Each delay is "
        "twice the one before, and shortened at random by up to a half.",
        0.5,
        least=0.01,
        most=3600,
    )
    max_delay: float = setting(
        "Longest delay in seconds between two attempts.", 10.0, least=0.01, most=3600
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    All settings: the top of the file.
    """

    uri: tuple[str, ...] = setting(
        "URI of the broker, ``amqp://`` or ``amqps://``; or a list of URIs, for the "
        "nodes of a cluster.",
        (),
        secret=True,
        variable=False,
    )
    uri_file: str = setting(
        "File with the URI.  A relative path names a credential of systemd, or begins "
        "in the folder of this file.",
        "",
        variable=False,
    )
    password_file: str = setting(
        "File with the password; the path is as with ``uri_file``.  The daemon reads "
        "it for each login.",
        "",
        variable=False,
    )
    srv: str = setting(
        "Domain whose SRV records name the nodes of the broker, such as "
        "``example.org``: the records of ``_amqp._tcp``, or with TLS of "
        "``_amqps._tcp``.  They override the host and the port of the URI.",
        "",
    )
    endpoint: str = setting(
        "Endpoint that connects to the broker, such as ``unix:/run/rabbitmq.sock`` or "
        "``tls:rabbit.example.org:5671``.  It overrides the host, the port and the TLS "
        "of the URI.",
        "",
    )
    token: TokenSettings | None = setting("See ``[token]``.", None, variable=False)
    name: str = setting(
        "Name of the connection in RabbitMQ; by default ``amqp-consumer`` and the "
        "queues.",
        "",
    )
    shutdown_timeout: float = setting(
        "Seconds that running handlers have to finish when the daemon stops.",
        30.0,
        least=0,
        most=86_400,
    )
    give_up_after: float = setting(
        "Seconds without a connection after which the daemon ends; 0 means never.",
        0.0,
        least=0,
        most=31_536_000,
    )
    threads: int = setting(
        "Maximum number of threads for handlers with ``in_thread``.",
        10,
        least=1,
        most=1000,
    )
    startup: str = setting(
        "Function that is called before the first message, as "
        "``package.module:function``.  It may return a Deferred or be a coroutine "
        "function.  Handlers get what it returns by ``txamqp091.worker.started``.  If "
        "it fails, the daemon ends with status 81.",
        "",
    )
    shutdown: str = setting(
        "Function that is called after the last message.  It gets what ``startup`` has "
        "returned, if it has a parameter, and may take ``shutdown_timeout``.",
        "",
    )
    admin: str = setting(
        "Endpoint that serves ``/live``, ``/ready`` and ``/metrics``, such as "
        "``tcp:9419:interface=127.0.0.1`` or ``unix:/run/orders/admin.sock``.  By "
        "default there is none.",
        "",
    )
    admin_control: bool = setting(
        "Let ``admin`` pause and resume consumers for every host that reaches it.  By "
        "default, only over loopback and Unix sockets.",
        False,
    )
    metrics: bool = setting("Serve ``/metrics``; needs ``txamqp091[metrics]``.", False)
    tracing: bool = setting(
        "Make OpenTelemetry spans and metrics; needs ``txamqp091[otel]``.", False
    )
    stalled_after: float = setting(
        "Seconds after which a consumer counts as stalled, so that the daemon is not "
        "ready: all its handlers are running, and none has ended.  0 means never.",
        300.0,
        least=0,
        most=31_536_000,
        reload=True,
    )
    reconnect: ReconnectSettings = setting("See ``[reconnect]``.", ReconnectSettings())
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
        All exchanges, queues and bindings to declare.

        :raises ValueError: the settings contradict each other.
        """
        topology = self._listed()
        for consumer in self.consumers:
            topology = topology.with_(*consumer.entities())
        return topology

    def _listed(self) -> Topology:
        """
        What the lists of exchanges, queues and bindings declare.
        """
        return Topology.from_dict(
            {
                "exchanges": list(self.exchanges),
                "queues": list(self.queues),
                "bindings": list(self.bindings),
            }
        )

    def completed(self) -> Settings:
        """
        The same settings, with a dead-letter queue for each consumer whose queue is in
        the list of queues, and has no dead-letter exchange.
        """
        try:
            listed = self._listed()
        except (ValueError, TypeError):
            return self  # `validate` says what is wrong
        consumers = []
        for consumer in self.consumers:
            case = _Case(consumer, listed.queue(consumer.queue))
            if case.queue is not None and case.queue.name and not case.loses_nothing:
                name = f"{consumer.queue}.dead"
                consumer = replace(consumer, dead_letter_queue=name)
            consumers.append(consumer)
        return replace(self, consumers=tuple(consumers))

    def validate(self, *, without_consumers: bool = False) -> None:
        """
        Check that the settings agree with each other.

        :param without_consumers: whether there may be no consumers.
        :raises Problem: they do not.
        """
        if not self.consumers and not without_consumers:
            raise Problem("consumers", "there are none")
        if self.srv and self.endpoint:
            raise Problem("endpoint", "is set, and srv is set too: leave out one")
        if self.token is not None:
            if self.password_file:
                raise Problem("password_file", "there is a token too")
            check_token(self.token)
        if self.reconnect.initial_delay > self.reconnect.max_delay:
            raise Problem(
                "reconnect.max_delay",
                f"is {self.reconnect.max_delay:g}, less than initial_delay, which is "
                f"{self.reconnect.initial_delay:g}",
            )
        try:
            listed = self._listed()
        except (ValueError, TypeError) as error:
            path, _, text = str(error).partition(": ")
            raise Problem(path, text or "is not understood") from None
        self._check_listed()
        labels: set[str] = set()
        for number, consumer in enumerate(self.consumers):
            path = f"consumers[{number}]"
            if consumer.label in labels:
                raise Problem(
                    f"{path}.name",
                    f"{consumer.label!r} is the name of another consumer too: give "
                    "the consumers different names",
                )
            labels.add(consumer.label)
            case = _Case(consumer, listed.queue(consumer.queue))
            for rule in _RULES:
                if rule.is_broken(case):
                    raise Problem(f"{path}.{rule.path}", rule.text.format(case=case))
        try:
            self.topology()
        except ValueError as error:
            raise Problem("consumers", str(error)) from None

    def _check_listed(self) -> None:
        """
        Check that names in the lists fit into AMQP's frames.
        """
        for kind in ("exchanges", "queues", "bindings"):
            for number, entry in enumerate(getattr(self, kind)):
                for key, value in entry.items():
                    if isinstance(value, str) and _octets(value) > _LONGEST:
                        raise Problem(
                            f"{kind}[{number}].{key}",
                            f"has more than {_LONGEST} octets",
                        )


# -- rules for the settings of a consumer ------------------------------------------


@dataclass(frozen=True)
class _Case:
    """
    A consumer under validation.

    :ivar queue: its queue, if that is in the list of queues.
    """

    consumer: ConsumerSettings
    queue: Queue | None

    @property
    def retry(self) -> RetrySettings:
        """
        The consumer's table ``retry``; without one, a table that breaks no rule.
        """
        return self.consumer.retry or RetrySettings(dead_letters=True)

    @property
    def longest(self) -> str:
        """
        The longest name that AMQP is given for the queue.
        """
        names = [
            each.name for each in self.consumer.entities() if hasattr(each, "name")
        ]
        return max([self.consumer.queue, *names], key=_octets)

    @property
    def is_stream(self) -> bool:
        """
        Whether the consumer says that its queue is a stream.
        """
        return self.consumer.stream_offset is not None

    @property
    def order(self) -> str:
        """
        ``order_by``.
        """
        return self.consumer.order_by

    @property
    def has_dead_letters(self) -> bool:
        """
        Whether messages that failed for the last time have a place to go to.
        """
        consumer, queue = self.consumer, self.queue
        return (
            bool(consumer.dead_queue)
            or consumer.says_dead_letters
            or (queue is not None and "x-dead-letter-exchange" in queue.arguments)
        )

    @property
    def loses_nothing(self) -> bool:
        """
        Whether each dead message has a place to go to, or the settings say to drop it.
        """
        return (
            self.has_dead_letters
            or self.is_stream
            or self.consumer.means in (OnError.DROP, OnError.HALT)
        )


def _octets(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


class _Rule(NamedTuple):
    """
    A rule for the settings of a consumer.

    :ivar path: the setting to name when the rule is broken.
    :ivar text: what is wrong then; may have fields of the case.
    """

    path: str
    is_broken: Callable[[_Case], object]
    text: str


#: How long names can be in AMQP, in octets of UTF-8.
_LONGEST = 255

_RULES = (
    _Rule(
        "queue",
        lambda case: _octets(case.longest) > _LONGEST,
        "is too long: AMQP's names have 255 octets at most, and the daemon needs "
        "{case.longest!r}",
    ),
    _Rule(
        "name",
        lambda case: _octets(case.consumer.label) > _LONGEST,
        "is too long for a consumer tag, which has 255 octets at most",
    ),
    _Rule(
        "concurrency",
        lambda case: (
            (case.consumer.concurrency or 0) > (case.consumer.prefetch or 0xFFFF)
        ),
        "is {case.consumer.concurrency}, more than prefetch, which is "
        "{case.consumer.prefetch}: the rest would never have a message",
    ),
    _Rule(
        "batch",
        lambda case: 0 < case.consumer.prefetch < case.consumer.batch,
        "is {case.consumer.batch}, more than prefetch, which is "
        "{case.consumer.prefetch}: a batch would never be complete",
    ),
    _Rule(
        "batch",
        lambda case: case.consumer.batch and case.order,
        "does not go with order_by: messages come in order if concurrency is 1",
    ),
    _Rule(
        "rate",
        lambda case: case.consumer.rate and not is_rate(case.consumer.rate),
        "is {case.consumer.rate!r}, not a number, a slash, and s, m, h or d, such as "
        "300/m",
    ),
    _Rule(
        "order_by",
        lambda case: case.order == "header:",
        "lacks the name of the header",
    ),
    _Rule(
        "order_by",
        lambda case: (
            case.order not in ("", "routing-key")
            and not case.order.startswith("header:")
        ),
        "is {case.order!r}, neither routing-key nor header:NAME",
    ),
    _Rule(
        "declare",
        lambda case: case.consumer.declare and case.queue is not None,
        "is true, and the queue {case.consumer.queue!r} is in the list of queues too",
    ),
    _Rule(
        "stream_offset",
        lambda case: (
            not case.is_stream and case.queue is not None and case.queue.is_stream
        ),
        "is missing: the queue {case.consumer.queue!r} is a stream",
    ),
    _Rule(
        "offset_file",
        lambda case: not case.is_stream and case.consumer.offset_file,
        "is for streams: see stream_offset",
    ),
    _Rule(
        "declare",
        lambda case: case.is_stream and case.consumer.declare,
        "is not for streams: put the stream into the list of queues, with its "
        "retention",
    ),
    _Rule(
        "stream_offset",
        lambda case: (
            case.is_stream and case.queue is not None and not case.queue.is_stream
        ),
        "is for streams, and the queue {case.consumer.queue!r} is not a stream",
    ),
    _Rule(
        "prefetch",
        lambda case: case.is_stream and not case.consumer.prefetch,
        "is 0, and a stream needs a limit",
    ),
    _Rule(
        "retry",
        lambda case: case.is_stream and case.consumer.retry is not None,
        "is not for streams: a stream does not take messages back",
    ),
    _Rule(
        "on_error",
        lambda case: (
            case.is_stream
            and case.consumer.on_error not in (OnError.REJECT, OnError.HALT)
        ),
        'has to be "reject", which skips the message, or "halt", for a stream: a '
        "stream does not take messages back",
    ),
    _Rule(
        "on_error",
        lambda case: (
            case.consumer.on_error is OnError.RETRY and case.consumer.retry is None
        ),
        'is "retry", and there is no table retry that says where dead messages go',
    ),
    _Rule("retry.delays", lambda case: not case.retry.delays, "is empty"),
    _Rule(
        "retry.queue_type",
        lambda case: case.retry.queue_type is QueueType.DEFAULT,
        "is neither quorum nor classic",
    ),
    _Rule(
        "dead_letter_queue",
        lambda case: case.consumer.dead_queue == case.consumer.queue,
        "is the consumer's own queue",
    ),
    _Rule(
        "dead_letter_queue",
        lambda case: case.consumer.dead_letter_queue and case.retry.parking,
        "is set, and retry.parking is set too: leave out one of them",
    ),
    _Rule(
        "dead_letter_queue",
        lambda case: not case.loses_nothing,
        "is missing: failed messages would be discarded.  Name a queue for them here, "
        "which the daemon declares; or set declare = true, and the daemon declares the "
        "queue {case.consumer.queue}.dead; or set dead_letters = true if the queue has "
        "a dead-letter exchange, by its arguments or by a policy; or set on_error = "
        '"drop" to discard failed messages',
    ),
    _Rule(
        "retry.method",
        lambda case: (
            case.retry.method is RetryMethod.BROKER
            and not (
                case.consumer.declare and case.consumer.queue_type is QueueType.QUORUM
            )
        ),
        'is "broker", which needs declare = true and a quorum queue',
    ),
)
