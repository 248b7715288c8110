# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's connection parameters, which can be assigned to.
"""

from __future__ import annotations

__all__ = ["ConnectionParameters", "Parameters", "SSLOptions", "URLParameters"]

import ast
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from txamqp091.compat.pika.credentials import ExternalCredentials, PlainCredentials
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters as Native
from txamqp091.parameters import TLSParameters


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
