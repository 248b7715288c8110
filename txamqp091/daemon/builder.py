# -*- test-case-name: txamqp091.test.unit.daemon.test_builder -*-
"""
From settings to a daemon: which parts there are, and how they hang together.
"""

from __future__ import annotations

__all__ = ["check_parts", "load_handlers", "make_daemon", "token_credentials"]

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from twisted.internet.endpoints import serverFromString

from txamqp091._threads import ThreadRunner
from txamqp091.consumer import Handler
from txamqp091.daemon.admin import AdminService, admin_site
from txamqp091.daemon.broker_login import RenewedLogins
from txamqp091.daemon.consumer_settings import ConsumerSettings, RetryMethod
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.handler_loading import HandlerNotFound, load_handler
from txamqp091.daemon.logs import set_threshold
from txamqp091.daemon.metrics import Metrics, NotInstalled
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings import Settings
from txamqp091.daemon.settings_loading import differences, reloaded
from txamqp091.daemon.settings_schema import Problem
from txamqp091.daemon.systemd import Notifier, Watchdog, watchdog_seconds
from txamqp091.daemon.tokens import TokenSource, find_token
from txamqp091.daemon.tracing import Tracing
from txamqp091.errors import AuthenticationFailed
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import (
    AMQPClientService,
    ExpiringCredentials,
    RetryPolicy,
    SecretRefresh,
)
from txamqp091.service.retry import is_permanent
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.handler_publisher import (
    HandlerPublisher,
    Republisher,
    ThreadPublisher,
    wants_publisher,
)
from txamqp091.worker.handler_runner import Republish
from txamqp091.worker.health import Health
from txamqp091.worker.retry_queues import broker_delays
from txamqp091.worker.stream_offsets import OffsetFile

#: Reads the settings again.
Load = Callable[[], Settings]

#: Finds the nodes, with the passwords that count now.
LogIn = Callable[[], Sequence[ConnectionParameters]]


def load_handlers(settings: Settings) -> dict[str, Handler]:
    """
    The handlers, by the labels of their consumers.

    :raises Problem: one has no name that could be a handler's, or would be waited for
        in vain.
    :raises HandlerNotFound: one is not there.
    """
    handlers = {}
    for place, consumer in enumerate(settings.consumers):
        path = f"consumers[{place}].handler"
        try:
            handler = load_handler(consumer.handler)
        except HandlerNotFound as error:
            raise HandlerNotFound(f"{path}: {error}") from None
        except ValueError as error:
            raise Problem(path, str(error)) from None
        if consumer.in_thread and _is_coroutine_function(handler):
            raise Problem(
                path,
                "is a coroutine function, which runs in the reactor's thread: leave "
                "out in_thread",
            )
        handlers[consumer.label] = handler
    return handlers


def _is_coroutine_function(handler: Any) -> bool:
    call = handler if inspect.isroutine(handler) else type(handler).__call__
    return inspect.iscoroutinefunction(call)


def check_parts(settings: Settings, reactor: Any) -> None:
    """
    See whether all that the settings ask for is here.

    :raises Problem: it is not.
    :raises HandlerNotFound: the function that is to return tokens is not there.
    """
    if settings.token is not None:
        find_token(settings.token)
    if settings.admin:
        try:
            serverFromString(reactor, settings.admin)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise Problem("admin", f"is no endpoint to listen on: {error}") from None
    elif settings.metrics:
        raise Problem("metrics", "there is no admin to see them at")
    for place, consumer in enumerate(settings.consumers):
        try:
            if consumer.offset_file:
                OffsetFile(consumer.offset_file, consumer.queue).check()
        except ValueError as error:
            path = f"consumers[{place}].offset_file"
            raise Problem(path, str(error)) from None
    try:
        if settings.metrics:
            Metrics(Health)
    except NotInstalled as error:
        raise Problem("metrics", str(error)) from None
    try:
        if settings.tracing:
            Tracing()
    except NotInstalled as error:
        raise Problem("tracing", str(error)) from None


def token_credentials(
    reactor: Any, settings: Settings, parameters: Sequence[ConnectionParameters]
) -> ExpiringCredentials | None:
    """
    What to log in with in place of the nodes' own credentials, if there is a token.
    """
    if settings.token is None:
        return None
    username = getattr(parameters[0].credentials[0], "username", "")
    # Threads of its own: those of handlers may all be busy.
    threads = ThreadRunner(reactor, 3, "amqp-token")
    source = TokenSource(reactor, settings.token, username, threads)
    return ExpiringCredentials(reactor, source)


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
    :param handlers: by the labels of the consumers.
    :param load: reads the settings again.
    :param environ: where systemd's variables are; by default in the process's own
        environment.
    :param log_in: finds the nodes again, with the passwords that count now.
    """
    notifier = Notifier(environ)
    threads = ThreadRunner(reactor, settings.threads, "amqp-handler")
    logins = RenewedLogins(parameters)
    token = token_credentials(reactor, settings, parameters)
    client = AMQPClientService(
        reactor,
        list(logins.parameters),
        topology=settings.topology(),
        adapt=settings.adapt,
        credentials=token,
        policy=RetryPolicy(
            permanent="fail" if token is None else "wait",
            max_seconds=settings.give_up_after or None,
        ),
        shutdown_timeout=settings.shutdown_timeout,
    )
    reread = None if load is None else _Reread(settings, load, logins, log_in)
    daemon = Daemon(
        reactor,
        client,
        notifier=notifier,
        reread=reread,
        stopped=threads.stop,
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
        insistence = _Insistence(daemon)
        client.observe(
            ready=insistence.ready,
            lost=insistence.lost,
            recovering=insistence.recovering,
        )
        if reread is not None:
            reread.refresh = refresh
    metrics = Metrics(daemon.health, reactor.seconds) if settings.metrics else None
    tracing = Tracing() if settings.tracing else None
    republisher = Republisher(client)
    republish: Republish = republisher
    if tracing is not None:
        republish = tracing.publishing(republish)
    publisher = None
    if any(map(wants_publisher, handlers.values())):
        publisher = HandlerPublisher(
            client, around=None if tracing is None else tracing.publishing
        )
    if metrics is not None:
        metrics.add_publisher("retries", republisher)
        if publisher is not None:
            metrics.add_publisher("handlers", publisher)
    client.observe(ready=partial(_check_retries, daemon, settings))
    if metrics is not None:
        client.observe(
            ready=lambda connection, outcomes: metrics.connected(connection),
            blocked=lambda reason: metrics.set_blocked(True),
            unblocked=lambda: metrics.set_blocked(False),
            lost=lambda reason: metrics.set_blocked(False),
        )
    for consumer in settings.consumers:
        handler = handlers[consumer.label]
        if publisher is not None and wants_publisher(handler):
            given: Any = publisher
            if consumer.in_thread:
                given = ThreadPublisher(reactor, publisher)
            handler = partial(cast("Callable[..., Any]", handler), publisher=given)
        if consumer.in_thread:
            handler = _in_thread(handler, threads)
        if tracing is not None:
            handler = tracing.traced(handler, consumer.queue)
        offsets = None
        if consumer.offset_file:
            offsets = OffsetFile(consumer.offset_file, consumer.queue)
        histogram = None
        if metrics is not None:
            histogram = metrics.histogram(consumer.label)
        daemon.add(
            ConsumerService(
                client,
                consumer.queue,
                handler,
                options=consumer.handler_options(settings.log.messages),
                prefetch=consumer.prefetch,
                exclusive=consumer.exclusive,
                arguments=consumer.arguments(),
                offsets=offsets,
                on_refused=consumer.on_refused,
                leave_to_broker=consumer.may_leave_it_to_the_broker(),
                shutdown_timeout=settings.shutdown_timeout,
                republish=republish,
                cancels=not consumer.in_thread,
                histogram=histogram,
            )
        )
    if settings.admin:
        site = admin_site(
            daemon.health, None if metrics is None else metrics.resource()
        )
        daemon.add_other(
            AdminService(
                serverFromString(reactor, settings.admin),
                site,
                lambda error: daemon.end(
                    Problem("admin", str(error)), ExitStatus.CONFIG
                ),
            )
        )
    daemon.add_other(Watchdog(reactor, notifier, watchdog_seconds(environ)))
    return daemon


def _in_thread(handler: Handler, threads: ThreadRunner) -> Handler:
    """
    The same handler, in a thread.
    """

    def call(delivery: Delivery) -> object:
        result = handler(delivery)
        if hasattr(result, "__await__") or hasattr(result, "addCallback"):
            raise TypeError(
                f"a handler in a thread returned {type(result).__name__}, for which "
                "nobody waits there"
            )
        return result

    return lambda delivery: threads.run(call, delivery)


def _check_retries(
    daemon: Daemon, settings: Settings, connection: AMQPProtocol, outcomes: object
) -> None:
    """
    End the daemon, if its settings need a broker that delays retries, and this is none.
    """
    needing = [
        each.label
        for each in settings.consumers
        if each.retry is not None and each.retry.method is RetryMethod.BROKER
    ]
    if needing and not broker_delays(connection.server_properties):
        problem = Problem(
            f"consumers.{needing[0]}.retry.method",
            "the broker does not delay retries; RabbitMQ 4.3 and later do",
        )
        daemon.end(problem, ExitStatus.CONFIG)


class _Insistence:
    """
    Gives up as `RetryPolicy` does with ``permanent="fail"``, but for the login: the
    next one is with another token.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._lost: BaseException | None = None

    def ready(self, connection: AMQPProtocol, outcomes: object) -> None:
        """
        There is a connection.
        """
        self._daemon.expired = False

    def lost(self, reason: BaseException) -> None:
        """
        It was lost, which is no reason to give up.
        """
        self._lost = reason

    def recovering(self, attempt: int, delay: float, reason: BaseException) -> None:
        """
        An attempt to connect has failed, or the connection was lost.
        """
        if reason is self._lost or isinstance(reason, AuthenticationFailed):
            return
        if is_permanent(reason):
            self._daemon.gave_up(reason)


class _Reread:
    """
    Reads the settings again, and changes what can be changed.

    :ivar refresh: what renews the token, if there is one.
    """

    def __init__(
        self,
        settings: Settings,
        load: Load,
        logins: RenewedLogins,
        log_in: LogIn | None,
    ) -> None:
        self.refresh: SecretRefresh | None = None
        self._settings = settings
        self._load = load
        self._logins = logins
        self._log_in = log_in

    def __call__(self, daemon: Daemon) -> str:
        """
        See `txamqp091.daemon.process.Rereader`.
        """
        old, found = self._settings, self._load()
        new = reloaded(old, found)
        changes = [path for path, _ in differences(old, new)]
        waiting = [path for path, _ in differences(new, found)]
        nodes = self._logins.parameters if self._log_in is None else self._log_in()
        # Now nothing can be wrong any more.
        if not self._logins.leads_to(nodes):
            waiting.append("uri")
        elif self._log_in is not None and self._logins.renew(nodes):
            changes.append("the login, for the next connection")
        if self.refresh is not None:
            self.refresh.refresh()
            changes.append("the token, as soon as there is one")
        self._settings = new
        set_threshold(new.log.level)
        daemon.stalled_after = new.stalled_after
        jobs: dict[str, ConsumerSettings] = {each.label: each for each in new.consumers}
        for consumer in daemon.consumers:
            settings = jobs[consumer.label]
            consumer.change(
                settings.handler_options(new.log.messages), settings.prefetch
            )
        said = f"changed: {', '.join(changes)}" if changes else "nothing has changed"
        if waiting:
            said += f"; what waits for a restart: {', '.join(waiting)}"
        return said
