# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's connection parameters, which can be assigned to, and `Connection`, the connection
with callbacks that all adapters but the blocking one share.
"""

from __future__ import annotations

__all__ = [
    "Connection",
    "ConnectionParameters",
    "Loop",
    "Parameters",
    "SSLOptions",
    "URLParameters",
]

import ast
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.python.failure import Failure

from txamqp091 import errors
from txamqp091.adapters._ssl import secured
from txamqp091.compat.pika import exceptions
from txamqp091.compat.pika.channel import Channel, _function
from txamqp091.compat.pika.credentials import ExternalCredentials, PlainCredentials
from txamqp091.compat.pika.frame import Method
from txamqp091.compat.pika.spec import Connection as Notices
from txamqp091.endpoint import connect
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters as Native
from txamqp091.parameters import TLSParameters
from txamqp091.protocol import AMQPProtocol


class SSLOptions:
    """
    How TLS is done.

    :ivar context: the ``ssl.SSLContext``.
    :ivar server_hostname: the name that the broker's certificate has to have, if it is
        not the host's.
    """

    def __init__(
        self, context: ssl.SSLContext, server_hostname: str | None = None
    ) -> None:
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(f"a context is an ssl.SSLContext, not {context!r}")
        self.context = context
        self.server_hostname = server_hostname


class Parameters:
    """
    What all parameters have; every one can be assigned to.

    ``tcp_options`` and ``locale`` are accepted and have no effect.
    """

    DEFAULT_USERNAME = "guest"
    DEFAULT_PASSWORD = "guest"
    DEFAULT_HOST = "localhost"
    DEFAULT_PORT = 5672
    DEFAULT_SSL_PORT = 5671
    DEFAULT_VIRTUAL_HOST = "/"

    def __init__(self) -> None:
        self.host = self.DEFAULT_HOST
        self.port = self.DEFAULT_PORT
        self.virtual_host = self.DEFAULT_VIRTUAL_HOST
        self.credentials: ICredentials = PlainCredentials(
            self.DEFAULT_USERNAME, self.DEFAULT_PASSWORD
        )
        self.channel_max = 65535
        self.frame_max = 131072
        self.heartbeat: int | Callable[..., int] | None = None
        self.ssl_options: SSLOptions | None = None
        self.connection_attempts = 1
        self.retry_delay = 2.0
        self.socket_timeout: float | None = 10.0
        self.stack_timeout: float | None = 15.0
        self.blocked_connection_timeout: float | None = None
        self.client_properties: dict[str, Any] | None = None
        self.tcp_options: dict[str, Any] | None = None
        self.locale = "en_US"

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} host={self.host} port={self.port} "
            f"virtual_host={self.virtual_host} ssl={bool(self.ssl_options)}>"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Parameters):
            return NotImplemented
        return self.native() == other.native()

    __hash__ = None  # type: ignore[assignment]

    def native(self) -> Native:
        """
        The same as `txamqp091.ConnectionParameters`.
        """
        tls = None
        if self.ssl_options is not None:
            tls = TLSParameters(server_name=self.ssl_options.server_hostname)
        heartbeat = self.heartbeat
        if callable(heartbeat):
            # pika calls it with what the broker offers; 60 is what RabbitMQ does.
            heartbeat = heartbeat(None, 60)
        native = Native(
            host=self.host,
            port=int(self.port),
            virtual_host=self.virtual_host,
            credentials=[self.credentials],
            channel_max=int(self.channel_max),
            frame_max=max(int(self.frame_max), 8192),
            client_properties=self.client_properties or {},
            tls=tls,
        )
        if heartbeat is not None:
            native = replace(native, heartbeat=int(heartbeat))
        if self.socket_timeout is not None:
            native = replace(native, connection_timeout=self.socket_timeout)
        if self.stack_timeout is not None:
            native = replace(native, handshake_timeout=self.stack_timeout)
        return native


class ConnectionParameters(Parameters):
    """
    Parameters, by position or by keyword.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        virtual_host: str | None = None,
        credentials: ICredentials | None = None,
        channel_max: int | None = None,
        frame_max: int | None = None,
        heartbeat: int | Callable[..., int] | None = None,
        ssl_options: SSLOptions | None = None,
        connection_attempts: int | None = None,
        retry_delay: float | None = None,
        **others: Any,
    ) -> None:
        """
        :param others: ``socket_timeout``, ``stack_timeout``, ``locale``,
            ``blocked_connection_timeout``, ``client_properties`` or ``tcp_options``.
        :raises TypeError: another keyword.
        """
        super().__init__()
        if port is None and ssl_options is not None:
            port = self.DEFAULT_SSL_PORT
        given = {
            "host": host,
            "port": port,
            "virtual_host": virtual_host,
            "credentials": credentials,
            "channel_max": channel_max,
            "frame_max": frame_max,
            "heartbeat": heartbeat,
            "ssl_options": ssl_options,
            "connection_attempts": connection_attempts,
            "retry_delay": retry_delay,
        }
        for name, value in given.items():
            if value is not None:
                setattr(self, name, value)
        for name, value in others.items():
            if name not in _OTHERS:
                raise TypeError(f"unexpected keyword argument {name!r}")
            setattr(self, name, value)


_OTHERS = {
    "socket_timeout",
    "stack_timeout",
    "locale",
    "blocked_connection_timeout",
    "client_properties",
    "tcp_options",
}

# The query of a URL, and what makes its values.
_QUERY: dict[str, Callable[[str], Any]] = {
    "blocked_connection_timeout": float,
    "channel_max": int,
    "client_properties": ast.literal_eval,
    "connection_attempts": int,
    "frame_max": int,
    "heartbeat": int,
    "locale": str,
    "retry_delay": float,
    "socket_timeout": float,
    "stack_timeout": float,
    "tcp_options": ast.literal_eval,
}


class URLParameters(Parameters):
    """
    Parameters of a URL such as ``amqp://user:password@host:5672/vhost?heartbeat=30``.

    A path that is empty or ``/`` is the virtual host ``/``.
    """

    def __init__(self, url: str) -> None:
        """
        :raises ValueError: the URL has another scheme, or a query that is not known.
            The error does not quote the URL.
        """
        super().__init__()
        parts = urlsplit(url)
        if parts.scheme not in ("amqp", "amqps", "http", "https"):
            raise ValueError("the URL does not begin with amqp:// or amqps://")
        if parts.scheme in ("amqps", "https"):
            self.ssl_options = SSLOptions(ssl.create_default_context())
            self.port = self.DEFAULT_SSL_PORT
        if parts.hostname:
            self.host = parts.hostname
        if parts.port is not None:
            self.port = parts.port
        if parts.username is not None:
            self.credentials = PlainCredentials(
                unquote(parts.username), unquote(parts.password or "")
            )
        if len(parts.path) > 1:
            self.virtual_host = unquote(parts.path[1:])
        for name, values in parse_qs(parts.query, keep_blank_values=True).items():
            if name == "ssl_options":
                self._set_ssl_options(ast.literal_eval(values[-1]))
            elif name == "auth_mechanism" and values[-1].upper() == "EXTERNAL":
                self.credentials = ExternalCredentials()
            elif name in _QUERY:
                setattr(self, name, _QUERY[name](values[-1]))
            else:
                raise ValueError(f"the URL's query has no parameter {name!r}")

    def _set_ssl_options(self, given: dict[str, Any]) -> None:
        """
        Make a context of a dictionary with the names of ``ssl.wrap_socket``.
        """
        context = ssl.create_default_context(
            cafile=given.get("ca_certs") or given.get("cafile")
        )
        if given.get("certfile"):
            context.load_cert_chain(
                given["certfile"], given.get("keyfile"), given.get("password")
            )
        if given.get("verify_mode") in ("CERT_NONE", ssl.CERT_NONE):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.ssl_options = SSLOptions(context, given.get("server_hostname"))


class Loop(Protocol):
    """
    What a connection needs of an event loop.

    :ivar reactor: the loop in the shape of a reactor.
    """

    reactor: Any

    def endpoint(
        self, parameters: Native, context: ssl.SSLContext | None
    ) -> IStreamClientEndpoint:
        """
        Make an endpoint for this loop.
        """

    def failed(self, error: BaseException) -> None:
        """
        Deal with what a callback of the program has raised: the connection lives on.
        """


class Connection:
    """
    A connection to a broker, with callbacks.

    :ivar params: the parameters.
    :ivar native: the `txamqp091.protocol.AMQPProtocol`; None until AMQP is open.
    :ivar lost_reason: pika's exception for the end of the connection.
    :ivar server_properties: the broker's properties.
    """

    def __init__(
        self,
        parameters: Parameters | None,
        on_open_callback: Callable[[Any], object] | None,
        on_open_error_callback: Callable[[Any, Exception], object] | None,
        on_close_callback: Callable[[Any, Exception], object] | None,
        loop: Loop,
        connecting: Deferred[AMQPProtocol] | None = None,
    ) -> None:
        """
        Begin to connect.

        :param connecting: fires with a protocol that the caller connects.
        """
        self.params = ConnectionParameters() if parameters is None else parameters
        self.native: AMQPProtocol | None = None
        self.lost_reason: Exception | None = None
        self.server_properties: dict[str, Any] = {}
        self._loop = loop
        self._state = "opening"
        self._closing: Exception | None = None
        self._channels: dict[int, Channel] = {}
        self._on_open: list[Callable[..., object]] = []
        self._on_open_error: list[Callable[..., object]] = []
        self._on_close: list[Callable[..., object]] = []
        self._on_blocked: list[Callable[..., object]] = []
        self._on_unblocked: list[Callable[..., object]] = []
        self._blocked_call: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None
        self._attempts = int(self.params.connection_attempts)
        self._connecting = connecting
        for given, kept in (
            (on_open_callback, self._on_open),
            (on_open_error_callback, self._on_open_error),
            (on_close_callback, self._on_close),
        ):
            if given is not None:
                kept.append(_function(given))
        if connecting is None:
            self._connect()
        else:
            self._attempts = 0
            connecting.addCallbacks(self._opened, self._refused)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self._state.upper()} host={self.params.host} "
            f"port={self.params.port}>"
        )

    # -- connecting --------------------------------------------------------------------

    def _connect(self) -> None:
        self._retry = None
        self._attempts -= 1
        options = self.params.ssl_options
        try:
            native, context = secured(
                self.params.native(), options.context if options else None
            )
            endpoint = self._loop.endpoint(native, context)
        except errors.AMQPError:
            failed: Deferred[AMQPProtocol] = Deferred()
            self._connecting = failed
            failed.addCallbacks(self._opened, self._refused)
            self._loop.reactor.callLater(0, failed.errback, Failure())
            return
        self._connecting = connect(self._loop.reactor, native, endpoint=endpoint)
        self._connecting.addCallbacks(self._opened, self._refused)

    def _opened(self, native: AMQPProtocol) -> None:
        self._connecting = None
        self.native = native
        if self._state != "opening":  # the program has closed it meanwhile
            native.close()
            self._not_opened(exceptions.ConnectionOpenAborted())
            return
        self.server_properties = native.server_properties
        self._state = "open"
        native.observe_blocked(self._blocked)
        native.when_closed().addCallbacks(self._ended, self._failed)
        for each in list(self._on_open):
            self.call(each, self)

    def _refused(self, failure: Failure) -> None:
        self._connecting = None
        if self._state != "opening":
            self._not_opened(exceptions.ConnectionOpenAborted())
        elif self._attempts > 0:
            self._retry = self._loop.reactor.callLater(
                self.params.retry_delay, self._connect
            )
        else:
            error = exceptions.translated(failure.value)
            if not isinstance(error, exceptions.AMQPConnectionError):
                error = exceptions.AMQPConnectionError(str(error))
            error.__cause__ = failure.value
            self._not_opened(error)

    def _not_opened(self, error: Exception) -> None:
        self._state = "closed"
        self.lost_reason = error
        if not self._on_open_error:
            self._loop.failed(error)
        for each in list(self._on_open_error):
            self.call(each, self, error)

    # -- the end -----------------------------------------------------------------------

    def _ended(self, _: object) -> None:
        self._finish(
            self._closing or exceptions.ConnectionClosedByClient(200, "Normal shutdown")
        )

    def _failed(self, failure: Failure) -> None:
        reason = self._closing or exceptions.translated(failure.value)
        if not isinstance(reason, exceptions.AMQPConnectionError):
            reason = exceptions.AMQPConnectionError(str(reason))
        reason.__cause__ = failure.value
        self._finish(reason)

    def _finish(self, reason: Exception) -> None:
        self._state = "closed"
        self.lost_reason = reason
        self._stop_blocked_call()
        for each in list(self._on_close):
            self.call(each, self, reason)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """
        Call a function of the program.  What it raises goes to the loop.
        """
        try:
            function(*args)
        except BaseException as error:
            self._loop.failed(error)

    def call_later(
        self, seconds: float, function: Callable[[], object]
    ) -> IDelayedCall:
        """
        Have a function of the program called by the connection's loop.
        """
        later: IDelayedCall = self._loop.reactor.callLater(seconds, self.call, function)
        return later

    def forget(self, channel: Channel) -> None:
        """
        A channel has ended.
        """
        if self._channels.get(channel.channel_number) is channel:
            del self._channels[channel.channel_number]

    # -- using -------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """
        Whether channels can be opened and used.
        """
        return self._state == "open" and self.native is not None and self.native.is_open

    @property
    def is_closing(self) -> bool:
        """
        Whether `close` was called, and the connection has not ended yet.
        """
        return self._state == "closing"

    @property
    def is_closed(self) -> bool:
        """
        Whether the connection has ended.
        """
        return self._state == "closed"

    @property
    def server_capabilities(self) -> dict[str, Any]:
        """
        What the broker supports.
        """
        found: dict[str, Any] = self.server_properties.get("capabilities", {})
        return found

    @property
    def basic_nack(self) -> bool:
        """
        Whether the broker supports ``basic.nack``.
        """
        return bool(self.server_capabilities.get("basic.nack"))

    @property
    def consumer_cancel_notify(self) -> bool:
        """
        Whether the broker tells that it ends a consumer.
        """
        return bool(self.server_capabilities.get("consumer_cancel_notify"))

    @property
    def exchange_exchange_bindings(self) -> bool:
        """
        Whether the broker binds exchanges to exchanges.
        """
        return bool(self.server_capabilities.get("exchange_exchange_bindings"))

    @property
    def publisher_confirms(self) -> bool:
        """
        Whether the broker confirms messages.
        """
        return bool(self.server_capabilities.get("publisher_confirms"))

    def channel(
        self,
        channel_number: int | None = None,
        on_open_callback: Callable[[Channel], object] | None = None,
    ) -> Channel:
        """
        Open a channel.

        :param channel_number: by default, the lowest free number.
        :raises ConnectionWrongStateError: the connection is not open.
        :raises NoFreeChannels: all numbers are in use.
        """
        native = self.native
        if not self.is_open or native is None:
            raise exceptions.ConnectionWrongStateError(
                f"Channel allocation requires an open connection: {self!r}"
            )
        if channel_number is None:
            channel_number = 1
            while channel_number in self._channels:
                channel_number += 1
            if channel_number > native.channel_max:
                raise exceptions.NoFreeChannels()
        channel = Channel(self, channel_number, on_open_callback)
        opening = native.open_channel(number=channel_number)
        if opening.called:
            problem: list[Failure] = []
            opening.addErrback(problem.append)
            raise exceptions.InvalidChannelNumber(str(problem[0].value))
        self._channels[channel_number] = channel
        opening.addCallbacks(channel.opened, channel.refused)
        return channel

    def close(self, reply_code: int = 200, reply_text: str = "Normal shutdown") -> None:
        """
        Close the connection, or stop connecting.

        :raises ConnectionWrongStateError: it is closed, or being closed.
        """
        if self._state in ("closing", "closed"):
            raise exceptions.ConnectionWrongStateError(f"Connection is {self._state}.")
        opening, self._state = self._state == "opening", "closing"
        self._closing = exceptions.ConnectionClosedByClient(reply_code, reply_text)
        if not opening:
            assert self.native is not None
            self.native.close(reply_code, reply_text).addErrback(lambda _: None)
        elif self._retry is not None:
            self._retry.cancel()
            self._loop.reactor.callLater(
                0, self._not_opened, exceptions.ConnectionOpenAborted()
            )
        else:
            # Its callback must not run inside this call.
            self._loop.reactor.callLater(0, self._stop_connecting)

    def _stop_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()

    def update_secret(
        self,
        new_secret: str,
        reason: str,
        callback: Callable[[Method[Any]], object] | None = None,
    ) -> None:
        """
        Give the broker a new token.
        """
        if not self.is_open or self.native is None:
            raise exceptions.ConnectionWrongStateError(f"Connection is {self._state}.")

        def answered(method: Any) -> None:
            if callback is not None:
                self.call(callback, Method(0, method))

        self.native.update_secret(new_secret, reason).addCallbacks(
            answered, lambda _: None
        )

    # -- callbacks ---------------------------------------------------------------------

    def add_on_open_callback(self, callback: Callable[[Any], object]) -> None:
        """
        Have a function called when AMQP is open.
        """
        self._on_open.append(_function(callback))

    def add_on_open_error_callback(
        self, callback: Callable[[Any, Exception], object], remove_default: bool = True
    ) -> None:
        """
        Have a function called when the connection could not be opened.
        """
        self._on_open_error.append(_function(callback))

    def add_on_close_callback(
        self, callback: Callable[[Any, Exception], object]
    ) -> None:
        """
        Have a function called with the reason when the connection ends.
        """
        self._on_close.append(_function(callback))

    def add_on_connection_blocked_callback(
        self, callback: Callable[[Any, Method[Any]], object]
    ) -> None:
        """
        Have a function called when the broker blocks publishing.
        """
        self._on_blocked.append(_function(callback))

    def add_on_connection_unblocked_callback(
        self, callback: Callable[[Any, Method[Any]], object]
    ) -> None:
        """
        Have a function called when the broker stops blocking publishing.
        """
        self._on_unblocked.append(_function(callback))

    def _blocked(self, reason: str | None) -> None:
        if reason is None:
            self._stop_blocked_call()
            for each in list(self._on_unblocked):
                self.call(each, self, Method(0, Notices.Unblocked()))
            return
        limit = self.params.blocked_connection_timeout
        if limit is not None and self._blocked_call is None:
            self._blocked_call = self._loop.reactor.callLater(limit, self._too_long)
        for each in list(self._on_blocked):
            self.call(each, self, Method(0, Notices.Blocked(reason)))

    def _too_long(self) -> None:
        self._blocked_call = None
        text = "Blocked connection timeout expired."
        if self.is_open and self.native is not None:
            self._closing = exceptions.ConnectionBlockedTimeout(text)
            self.lost_reason = self._closing
            self._state = "closing"
            self.native.close(320, text)

    def _stop_blocked_call(self) -> None:
        call, self._blocked_call = self._blocked_call, None
        if call is not None:
            call.cancel()
