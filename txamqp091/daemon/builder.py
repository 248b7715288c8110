# -*- test-case-name: txamqp091.test.unit.daemon.test_builder -*-
"""
Builds a `Daemon` and its parts from settings.

`load_handlers` and `check_parts` find what is missing before anything starts, and
`make_daemon` puts the parts together.  Parts that few daemons have are imported when
the settings ask for them: start-up is faster without a web server.
"""

from __future__ import annotations

__all__ = [
    "broker_places",
    "check_parts",
    "load_handlers",
    "make_daemon",
    "token_credentials",
]

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from txamqp091._threads import ThreadRunner
from txamqp091.consumer import Handler
from txamqp091.daemon.broker_login import LogIn, RenewedLogins
from txamqp091.daemon.consumer_settings import ConsumerSettings
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.handler_loading import (
    HandlerNotFound,
    load_function,
    load_handler,
)
from txamqp091.daemon.logs import set_threshold
from txamqp091.daemon.metrics import Metrics
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings import Settings
from txamqp091.daemon.settings_loading import differences, reloaded
from txamqp091.daemon.settings_schema import Problem
from txamqp091.daemon.systemd import Notifier, Watchdog, watchdog_seconds
from txamqp091.daemon.tokens import TokenSource, find_token
from txamqp091.errors import NotInstalled, printable
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import (
    AMQPClientService,
    ExpiringCredentials,
    RetryPolicy,
    SecretRefresh,
    SRVRecords,
    Telemetry,
)
from txamqp091.service.telemetry import check_installed
from txamqp091.worker.asyncio_handlers import event_loop
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.deduplication import Deduplicate, RecentMessageIds
from txamqp091.worker.handler_check import check_handler
from txamqp091.worker.handler_publisher import (
    HandlerPublisher,
    Republisher,
    ThreadPublisher,
    wants_publisher,
)
from txamqp091.worker.handler_runner import Republish
from txamqp091.worker.health import Health
from txamqp091.worker.middleware import Middleware
from txamqp091.worker.rate_limit import RateLimit
from txamqp091.worker.retry_queues import broker_delays
from txamqp091.worker.startup import run_shutdown, run_startup
from txamqp091.worker.stream_offsets import OffsetFile

_log = Logger(namespace="txamqp091.daemon")

#: Reads the settings again.
Load = Callable[[], Settings]


def load_handlers(settings: Settings) -> dict[str, Handler]:
    """
    The handlers, by the labels of their consumers.

    :raises Problem: the name of a handler is malformed; or a coroutine function is to
        be called in a thread, or needs another reactor.
    :raises HandlerNotFound: a handler does not exist.
    """
    handlers = {}
    for number, consumer in enumerate(settings.consumers):
        path = f"consumers[{number}].handler"
        try:
            pairs = bool(consumer.decode) and not consumer.batch
            handler = load_handler(consumer.handler, 2 if pairs else 1)
        except HandlerNotFound as error:
            raise HandlerNotFound(f"{path}: {error}") from None
        except ValueError as error:
            raise Problem(path, str(error)) from None
        # Twistd has installed the reactor that its command line names.
        reactor = sys.modules.get("twisted.internet.reactor", object())
        try:
            check_handler(handler, reactor, in_thread=consumer.in_thread)
        except (TypeError, ValueError) as error:
            raise Problem(path, str(error)) from None
        handlers[consumer.label] = handler
    return handlers


def load_functions(settings: Settings) -> dict[str, Callable[..., Any]]:
    """
    The functions that settings name besides handlers, by their names.

    :raises Problem: a name is malformed.
    :raises HandlerNotFound: a function does not exist.
    """
    names = {"startup": settings.startup, "shutdown": settings.shutdown}
    for number, consumer in enumerate(settings.consumers):
        path = f"consumers[{number}]"
        if consumer.decode != "json":
            names[f"{path}.decode"] = consumer.decode
        for place, name in enumerate(consumer.middleware):
            names[f"{path}.middleware[{place}]"] = name
    functions = {}
    for path, name in names.items():
        try:
            if name:
                functions[name] = load_function(name)
        except HandlerNotFound as error:
            raise HandlerNotFound(f"{path}: {error}") from None
        except ValueError as error:
            raise Problem(path, str(error)) from None
    return functions


def check_parts(settings: Settings, reactor: Any) -> None:
    """
    Check that everything the settings ask for can be had.

    :raises Problem: something cannot.
    :raises HandlerNotFound: the function that returns tokens does not exist.
    """
    if settings.token is not None:
        find_token(settings.token)
    if settings.admin:
        from txamqp091.daemon.admin import admin_endpoint

        try:
            admin_endpoint(reactor, settings.admin)
        except ValueError as error:
            raise Problem(
                "admin", f"is not an endpoint to listen on: {error}"
            ) from None
    elif settings.metrics:
        raise Problem("metrics", "is true, and admin, which serves metrics, is not set")
    _check_offset_files(settings)
    load_functions(settings)
    try:
        if settings.metrics:
            Metrics(Health)
    except NotInstalled as error:
        raise Problem("metrics", str(error)) from None
    try:
        if settings.tracing:
            check_installed()
    except NotInstalled as error:
        raise Problem("tracing", str(error)) from None


def _check_offset_files(settings: Settings) -> None:
    users: dict[str, str] = {}
    for number, consumer in enumerate(settings.consumers):
        if not consumer.offset_file:
            continue
        path = f"consumers[{number}].offset_file"
        other = users.setdefault(os.path.realpath(consumer.offset_file), consumer.label)
        if other != consumer.label:
            raise Problem(path, f"is the file of the consumer {other!r} too")
        try:
            OffsetFile(consumer.offset_file, consumer.queue).check()
        except ValueError as error:
            raise Problem(path, str(error)) from None


def token_credentials(
    reactor: Any, settings: Settings, parameters: Sequence[ConnectionParameters]
) -> ExpiringCredentials | None:
    """
    The credentials that fetch tokens, if the settings name a token.
    """
    if settings.token is None:
        return None
    username = getattr(parameters[0].credentials[0], "username", "")
    # Threads of its own: handlers may occupy all of theirs.
    threads = ThreadRunner(reactor, 3, "amqp-token")
    source = TokenSource(reactor, settings.token, username, threads)
    return ExpiringCredentials(reactor, source)


def broker_places(
    reactor: Any, settings: Settings, parameters: Sequence[ConnectionParameters]
) -> list[ConnectionParameters | IStreamClientEndpoint | SRVRecords]:
    """
    What to connect to: the nodes of the URIs, unless ``srv`` or ``endpoint`` is set.
    An endpoint needs the first of the parameters besides.

    :raises Problem: the endpoint is malformed, or the URI asks for TLS besides.
    """
    if settings.srv:
        return [SRVRecords(settings.srv, parameters[0])]
    if not settings.endpoint:
        return list(parameters)
    if parameters[0].tls is not None:
        raise Problem(
            "endpoint",
            "does TLS itself, and the URI is amqps://: write amqp://, and an endpoint "
            "that begins with tls:",
        )
    try:
        endpoint = clientFromString(reactor, settings.endpoint)
    except Exception as error:  # the parsers of plugins raise what they like
        kind = type(error).__name__
        text = f"is not an endpoint to connect to: {kind}: {printable(str(error))}"
        raise Problem("endpoint", text) from None
    return [endpoint]


# -- the parts -------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Parts:
    """
    Parts that consumers share.

    :ivar republish: publishes messages that are retried or dead-lettered.
    :ivar publisher: the publisher of handlers, if a handler asks for one.
    :ivar functions: other functions of the user, by their names.
    """

    reactor: Any
    settings: Settings
    client: AMQPClientService
    threads: ThreadRunner
    metrics: Metrics | None = None
    telemetry: Telemetry | None = None
    republish: Republish
    publisher: HandlerPublisher | None = None
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def make_daemon(
    reactor: Any,
    settings: Settings,
    parameters: Sequence[ConnectionParameters],
    handlers: Mapping[str, Handler],
    load: Load | None = None,
    environ: Mapping[str, str] | None = None,
    log_in: LogIn | None = None,
) -> Daemon:
    """
    The daemon that settings describe.

    :param parameters: the nodes of the broker.
    :param handlers: by the labels of their consumers.
    :param load: reads the settings again.
    :param environ: the environment that has systemd's variables; by default the
        process's own.
    :param log_in: finds the nodes again, with the passwords that are valid now.
    """
    logins = RenewedLogins(parameters, log_in)
    token = token_credentials(reactor, settings, parameters)
    client = _make_client(reactor, settings, logins, token)
    threads = ThreadRunner(reactor, settings.threads, "amqp-handler")
    notifier = Notifier(environ)
    reread = None if load is None else _Reread(settings, load, logins)
    functions = load_functions(settings)
    startup, shutdown = _life(reactor, settings, functions)
    daemon = Daemon(
        reactor,
        client,
        startup=startup,
        shutdown=shutdown,
        shutdown_timeout=settings.shutdown_timeout,
        notifier=notifier,
        reread=reread,
        stopped=threads.stop,
        logins_expire=token is not None,
    )
    daemon.stalled_after = settings.stalled_after
    if settings.token is not None and token is not None:
        refresh = SecretRefresh(
            client,
            token,
            fraction=settings.token.fraction,
        )
        refresh.observe(
            refreshed=lambda lifetime: setattr(daemon, "expired", False),
            expired=lambda reason: setattr(daemon, "expired", True),
        )
        if reread is not None:
            reread.refresh = refresh
    parts = _make_parts(reactor, settings, client, threads, handlers, daemon)
    parts.functions = functions
    client.observe(ready=partial(_check_retries, daemon, settings))
    for consumer in settings.consumers:
        daemon.add(_make_consumer(consumer, handlers[consumer.label], parts))
    if settings.admin:
        daemon.add_other(_make_admin(reactor, settings, daemon, parts.metrics))
    daemon.add_other(Watchdog(reactor, notifier, watchdog_seconds(environ)))
    return daemon


def _make_client(
    reactor: Any,
    settings: Settings,
    logins: RenewedLogins,
    token: ExpiringCredentials | None,
) -> AMQPClientService:
    return AMQPClientService(
        reactor,
        broker_places(reactor, settings, logins.parameters),
        parameters=logins.parameters[0],
        topology=settings.topology(),
        credentials=token,
        policy=RetryPolicy(
            initial_delay=settings.reconnect.initial_delay,
            max_delay=settings.reconnect.max_delay,
            # With a token, `Daemon` decides: the next one may be accepted.
            permanent="fail-at-start" if token is None else "wait",
            max_seconds=settings.give_up_after or None,
        ),
        shutdown_timeout=settings.shutdown_timeout,
    )


def _make_parts(
    reactor: Any,
    settings: Settings,
    client: AMQPClientService,
    threads: ThreadRunner,
    handlers: Mapping[str, Handler],
    daemon: Daemon,
) -> _Parts:
    """
    Make metrics, tracing and publishers.
    """
    telemetry = Telemetry(client) if settings.tracing else None
    around = None if telemetry is None else telemetry.publishing
    republisher = Republisher(client)
    parts = _Parts(
        reactor=reactor,
        settings=settings,
        client=client,
        threads=threads,
        telemetry=telemetry,
        republish=republisher if around is None else around(republisher),
    )
    if any(map(wants_publisher, handlers.values())):
        parts.publisher = HandlerPublisher(client, around=around)
    if settings.metrics:
        metrics = parts.metrics = Metrics(daemon.health, reactor.seconds)
        metrics.publishers["retries"] = republisher
        if parts.publisher is not None:
            metrics.publishers["handlers"] = parts.publisher
        client.observe(
            ready=lambda connection, outcomes: metrics.connected(connection),
            blocked=lambda reason: metrics.set_blocked(True),
            unblocked=lambda: metrics.set_blocked(False),
            lost=lambda reason: metrics.set_blocked(False),
        )
    return parts


def _make_consumer(
    consumer: ConsumerSettings, handler: Handler, parts: _Parts
) -> ConsumerService:
    settings, metrics = parts.settings, parts.metrics
    if parts.publisher is not None and wants_publisher(handler):
        given: Any = parts.publisher
        if consumer.in_thread:
            given = ThreadPublisher(parts.reactor, parts.publisher)
        handler = partial(cast("Callable[..., Any]", handler), publisher=given)
    offsets = None
    if consumer.offset_file:
        offsets = OffsetFile(consumer.offset_file, consumer.queue)
    make: Any = ConsumerService  # whose handler depends on decode and batch
    service: ConsumerService = make(
        parts.client,
        consumer.queue,
        handler,
        decode=_decoder(consumer, parts),
        batch=consumer.batch,
        batch_wait=consumer.batch_wait,
        middleware=_middleware(consumer, parts),
        options=consumer.handler_options(settings.log.messages),
        prefetch=consumer.prefetch,
        join_acks=consumer.join_acks,
        exclusive=consumer.exclusive,
        arguments=consumer.arguments(),
        offsets=offsets,
        on_refused=consumer.on_refused,
        leave_to_broker=consumer.broker_delays,
        shutdown_timeout=settings.shutdown_timeout,
        republish=parts.republish,
        threads=parts.threads if consumer.in_thread else None,
        histogram=None if metrics is None else metrics.histogram(consumer.label),
    )
    return service


def _decoder(consumer: ConsumerSettings, parts: _Parts) -> Any:
    if consumer.decode in ("", "json"):
        return consumer.decode or None
    return parts.functions[consumer.decode]


def _middleware(consumer: ConsumerSettings, parts: _Parts) -> list[Middleware]:
    """
    What is around a handler, the outermost first: a span, deduplication, a rate limit,
    and the functions of the user.
    """
    middleware: list[Middleware] = []
    telemetry = parts.telemetry
    if telemetry is not None:
        middleware.append(partial(telemetry.traced, queue=consumer.queue))
    if consumer.deduplicate:
        middleware.append(Deduplicate(RecentMessageIds(consumer.deduplicate)))
    if consumer.rate:
        middleware.append(RateLimit(consumer.rate, parts.reactor))
    return middleware + [parts.functions[each] for each in consumer.middleware]


def _life(
    reactor: Any, settings: Settings, functions: Mapping[str, Callable[..., Any]]
) -> tuple[Callable[[], Deferred[Any]] | None, Callable[[], Deferred[Any]] | None]:
    """
    What the daemon calls before its first message, and after its last one.
    """
    opens = functions.get(settings.startup)
    closes = functions.get(settings.shutdown)
    loop = event_loop(reactor)
    startup = shutdown = None
    if opens is not None:

        def startup() -> Deferred[Any]:
            return Deferred.fromCoroutine(run_startup(opens, loop))

    if opens is not None or closes is not None:

        def shutdown() -> Deferred[Any]:
            return Deferred.fromCoroutine(run_shutdown(closes, opens, loop))

    return startup, shutdown


def _make_admin(
    reactor: Any, settings: Settings, daemon: Daemon, metrics: Metrics | None
) -> Any:
    from txamqp091.daemon.admin import AdminService, admin_endpoint, admin_site

    return AdminService(
        reactor,
        admin_endpoint(reactor, settings.admin),
        admin_site(
            reactor,
            daemon.health,
            None if metrics is None else metrics.text,
            consumers=daemon.consumers,
            control_anywhere=settings.admin_control,
        ),
        lambda error: daemon.end(Problem("admin", str(error)), ExitStatus.CONFIG),
    )


def _check_retries(
    daemon: Daemon, settings: Settings, connection: AMQPProtocol, outcomes: object
) -> None:
    """
    Check that a broker can delay retries, if the settings leave that to the broker.
    """
    delayed = [each.label for each in settings.consumers if each.broker_delays]
    daemon.problem = ""
    if not delayed or broker_delays(connection.server_properties):
        return
    problem = Problem(
        f"consumers.{delayed[0]}.retry.method",
        'is "broker", and this broker does not delay retries: RabbitMQ 4.3 and later '
        "do",
    )
    if daemon.has_consumed:
        daemon.problem = str(problem)
        _log.error("Not ready: {problem}", problem=daemon.problem)
    else:
        daemon.end(problem, ExitStatus.CONFIG)


class _Reread:
    """
    Reads the settings again, and applies those that can change while the daemon runs.

    :ivar refresh: renews the token, if there is one.
    """

    def __init__(self, settings: Settings, load: Load, logins: RenewedLogins) -> None:
        self.refresh: SecretRefresh | None = None
        self._settings = settings
        self._load = load
        self._logins = logins

    def __call__(self, daemon: Daemon) -> str:
        """
        See `txamqp091.daemon.process.Rereader`.
        """
        old, found = self._settings, self._load()
        new = reloaded(old, found)
        changes = [path for path, _ in differences(old, new)]
        waiting = [path for path, _ in differences(new, found)]
        renewed = self._logins.read()  # the last step that can fail
        if renewed is None:
            waiting.append("uri")
        elif renewed:
            changes.append("the login, from the next connection on")
        if self.refresh is not None:
            self.refresh.refresh()
            changes.append("the token, as soon as a new one is fetched")
        self._settings = new
        set_threshold(new.log.level)
        daemon.stalled_after = new.stalled_after
        consumers = {each.label: each for each in new.consumers}
        for consumer in daemon.consumers:
            settings = consumers[consumer.label]
            options = settings.handler_options(new.log.messages)
            consumer.change(options, settings.prefetch)
        said = f"changed: {', '.join(changes)}" if changes else "nothing has changed"
        if waiting:
            said += f"; these settings need a restart: {', '.join(waiting)}"
        return said
