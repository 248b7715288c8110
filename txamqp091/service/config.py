# -*- test-case-name: txamqp091.test.test_config -*-
"""
The settings of the daemon: what there is, what it means, and what goes together.

A file in TOML, environment variables over it, and the command line over these are
merged into one `Settings`, which is checked as a whole.  Who the broker is, with
passwords, is in `txamqp091.service.logins`.
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
    "differences",
    "load",
    "reloaded",
    "unknown_variables",
    "variables",
]

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar

from txamqp091.arguments import classic_queue, quorum_queue
from txamqp091.consumer import DEFAULT_PREFETCH
from txamqp091.service.checking import (
    Problem,
    build,
    from_text,
    setting,
    settings_of,
)
from txamqp091.service.delays import RetryPlan
from txamqp091.service.logins import LOGIN_VARIABLES
from txamqp091.service.policy import OnError, Policy
from txamqp091.service.topology import Entity, Queue, Topology
from txamqp091.service.work import Job

#: What the names of our environment variables begin with.
PREFIX = "TXAMQP091_"

#: The one that names the file.
CONFIG_VARIABLE = "TXAMQP091_CONFIG"

# How often a quorum queue that we declare may deliver a message, at least: it counts
# more than failures of handlers.
_DELIVERY_LIMIT = 20


S = TypeVar("S")


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
        "queue is ours.",
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
            consumer=self.label,
            policy=policy,
            plan=self.plan(),
            concurrency=self.prefetch if self.concurrency is None else self.concurrency,
            order_by=self.order_by,
            timeout=self.timeout,
            log_messages=log.messages,
        )

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


# -- from file, environment and flags ----------------------------------------------


def load(
    path: str | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    consumer: Mapping[str, Any] | None = None,
) -> Settings:
    """
    All settings, checked.

    :param path: the file, if there is one.
    :param flags: what the command line says, by the setting that is meant, such as
        ``log.level``.  What begins with ``consumers.`` is for each consumer.
    :param consumer: a consumer to add.
    :raises Problem: something is wrong; its path begins with the file, or is the name
        of a variable or a flag.
    """
    data = {} if path is None else _read(path)
    if consumer is not None:
        data.setdefault("consumers", []).append(dict(consumer))
    try:
        _merge_environment(data, environ)
        for name, text in flags.items():
            _merge_flag(data, name, text)
        settings = build(Settings, data)
        _check(settings)
    except Problem as problem:
        if path is None or problem.path.startswith((PREFIX, "--")):
            raise
        raise Problem(f"{path}: {problem.path}", problem.text) from None
    return settings


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise Problem(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Problem(path, "cannot be read: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # Its text tells a place, and no more of the file than one character.
        raise Problem(path, f"is not TOML: {error}") from None


def variables(settings: type = Settings, prefix: str = PREFIX) -> Iterator[str]:
    """
    The names of the environment variables that are heeded; those of a consumer have
    ``<NAME>`` in them.
    """
    for each, hint in settings_of(settings):
        kind = _table(hint)
        name = each.name.upper()
        if kind is ConsumerSettings:
            yield from variables(kind, f"{prefix}{name}_<NAME>_")
        elif kind is not None:
            yield from variables(kind, f"{prefix}{name}_")
        elif each.metadata["variable"]:
            yield f"{prefix}{name}"


def _table(hint: Any) -> type | None:
    """
    The dataclass in a field's type.
    """
    for each in (hint, *getattr(hint, "__args__", ())):
        if isinstance(each, type) and dataclasses.is_dataclass(each):
            return each
    return None


def _merge_environment(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    _merge(Settings, data, environ, PREFIX)
    for entry in _entries(data):
        label = str(entry.get("name") or entry.get("queue"))
        _merge(ConsumerSettings, entry, environ, _consumer_prefix(label))


def _entries(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    The consumers' tables, as far as they are any.
    """
    entries = data.get("consumers")
    if not isinstance(entries, list):
        return []
    return [each for each in entries if isinstance(each, dict)]


def _consumer_prefix(label: str) -> str:
    return f"{PREFIX}CONSUMERS_{re.sub('[^A-Z0-9]', '_', label.upper())}_"


def _merge(
    kind: type, data: dict[str, Any], environ: Mapping[str, str], prefix: str
) -> None:
    """
    Put the values of variables where the settings are that they stand for.
    """
    for each, hint in settings_of(kind):
        table = _table(hint)
        name = f"{prefix}{each.name.upper()}"
        if table is ConsumerSettings:
            continue
        if table is not None:
            inner = data.get(each.name, {})
            if isinstance(inner, dict):
                _merge(table, inner, environ, f"{name}_")
                if inner:
                    data[each.name] = inner
        elif each.metadata["variable"] and environ.get(name):
            data[each.name] = _from_text(kind, each.name, environ[name], name)


def _merge_flag(data: dict[str, Any], path: str, text: str) -> None:
    """
    Put the value of a flag where it belongs.
    """
    table, _, key = path.rpartition(".")
    flag = "--" + path.removeprefix("consumers.").replace(".", "-").replace("_", "-")
    if table == "consumers":
        value = _from_text(ConsumerSettings, key, text, flag)
        for entry in _entries(data):
            entry[key] = value
    elif table == "log":
        inner = data.setdefault("log", {})
        if isinstance(inner, dict):
            inner[key] = _from_text(LogSettings, key, text, flag)
    else:
        data[key] = _from_text(Settings, key, text, flag)


def _from_text(kind: type, key: str, text: str, name: str) -> Any:
    """
    A value from text; if it is wrong, the error names where the text is from.
    """
    [(each, hint)] = [pair for pair in settings_of(kind) if pair[0].name == key]
    value = from_text(each, hint, text, name)
    needed = {"queue": "q", "handler": "h"} if kind is ConsumerSettings else {}
    try:
        build(kind, {**needed, key: value})
    except Problem as problem:
        raise Problem(name, problem.text) from None
    return value


def unknown_variables(environ: Mapping[str, str], settings: Settings) -> list[str]:
    """
    Variables that look like ours, and are not, each with what may be meant.
    """
    known = {*LOGIN_VARIABLES, CONFIG_VARIABLE}
    for name in variables():
        for consumer in settings.consumers:
            prefix = _consumer_prefix(consumer.label)
            known.add(name.replace(f"{PREFIX}CONSUMERS_<NAME>_", prefix))
    found = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = get_close_matches(name, known, 1)
            found.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return found


# -- what goes together --------------------------------------------------------------


def _check(settings: Settings) -> None:
    if not settings.consumers:
        raise Problem("consumers", "there are none")
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


# -- what can change -------------------------------------------------------------------


def differences(old: object, new: object, path: str = "") -> Iterator[tuple[str, bool]]:
    """
    The settings that are not the same any more.

    :returns: for each, its path, and whether it can change while the daemon runs.
    """
    for each, _ in settings_of(type(old)):
        before, after = getattr(old, each.name), getattr(new, each.name)
        where = f"{path}.{each.name}" if path else each.name
        if before == after:
            continue
        if type(before) is type(after) and dataclasses.is_dataclass(before):
            yield from differences(before, after, where)
        elif each.name == "consumers":
            yield from _consumer_differences(before, after)
        else:
            yield where, each.metadata["reload"]


def _consumer_differences(
    before: tuple[ConsumerSettings, ...], after: tuple[ConsumerSettings, ...]
) -> Iterator[tuple[str, bool]]:
    old = {each.label: each for each in before}
    new = {each.label: each for each in after}
    for label in dict.fromkeys([*old, *new]):
        where = f"consumers.{label}"
        if label not in old or label not in new:
            yield where, False
        else:
            yield from differences(old[label], new[label], where)


def reloaded(old: Settings, new: Settings) -> Settings:
    """
    The old settings, with all that is new and can change while the daemon runs.

    :raises Problem: what comes of that does not go together.
    """
    settings = _changed(old, new)
    found = {each.label: each for each in new.consumers}
    consumers = tuple(
        _changed(each, found.get(each.label, each)) for each in old.consumers
    )
    settings = dataclasses.replace(settings, consumers=consumers)
    _check(settings)
    return settings


def _changed(old: S, new: S) -> S:
    changes: dict[str, Any] = {}
    for each, _ in settings_of(type(old)):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if each.metadata["reload"]:
            changes[each.name] = after
        elif dataclasses.is_dataclass(before) and type(before) is type(after):
            changes[each.name] = _changed(before, after)
    replaced: S = dataclasses.replace(old, **changes)  # type: ignore[type-var]
    return replaced
