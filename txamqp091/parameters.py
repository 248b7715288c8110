# -*- test-case-name: txamqp091.test.unit.client.test_parameters -*-
"""
The parameters of a connection: address, login, TLS, and limits.

The classes hold and check values; they open no file and no socket.
`txamqp091.endpoint` connects with them.  The grammar of URIs is in `txamqp091._uri`.
"""

from __future__ import annotations

__all__ = ["ConnectionParameters", "TLSParameters", "UnverifiedTLS"]

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Self
from urllib.parse import quote

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator

from txamqp091 import _uri
from txamqp091.credentials import (
    AMQPlainCredentials,
    AnonymousCredentials,
    ExternalCredentials,
    PlainCredentials,
)
from txamqp091.errors import InvalidURI, LocalProtocolError
from txamqp091.interfaces import AnyCredentials, ICredentials


def _check_text(owner: object, *names: str) -> None:
    """
    Refuse attributes that are neither None nor a text of one character or more.
    """
    for name in names:
        value = getattr(owner, name)
        if value is not None and (not isinstance(value, str) or not value):
            raise InvalidURI(f"{name} is {value!r}, not a text")


@dataclass(frozen=True, kw_only=True)
class TLSParameters:
    """
    The certificates for TLS: those to trust, and the client's own.

    Without arguments, the broker needs a certificate for the host, from an authority
    that the operating system trusts.  The certificate's subjectAltName must name the
    host; its common name does not count.

    :ivar cafile: a PEM file with one or more authorities to trust, in place of those of
        the operating system.
    :ivar certfile: a PEM file with the client's own certificate, followed by the
        intermediate ones.
    :ivar keyfile: a PEM file with the key of ``certfile``, without a passphrase.
    :ivar server_name: the name to ask for (SNI) and to find in the certificate, if it
        differs from the host.
    :ivar trust_root: Twisted's trust root, in place of ``cafile``:
        ``twisted.internet.ssl.trustRootFromCertificates(...)``.
    :ivar connection_creator: Twisted's creator of TLS connections, in place of all but
        ``server_name``: ``twisted.internet.ssl.optionsForClientTLS(...)``.  The creator
        verifies the certificate; txamqp091 still checks the name in it.
    """

    #: Whether the broker has to prove who it is.
    verified: ClassVar[bool] = True

    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    server_name: str | None = None
    trust_root: object | None = None
    connection_creator: IOpenSSLClientConnectionCreator | None = None

    def __post_init__(self) -> None:
        _check_text(self, "cafile", "certfile", "keyfile", "server_name")
        if (self.certfile is None) != (self.keyfile is None):
            raise InvalidURI("certfile and keyfile go together: one is missing")
        if self.cafile is not None and self.trust_root is not None:
            raise InvalidURI("cafile and trust_root exclude each other")
        if self.connection_creator is not None and (
            self.cafile or self.certfile or self.trust_root is not None
        ):
            raise InvalidURI(
                "connection_creator excludes cafile, certfile, keyfile and trust_root: "
                "give those to what makes it"
            )


@dataclass(frozen=True, kw_only=True)
class UnverifiedTLS(TLSParameters):
    """
    TLS without verification: **any server can take the broker's place**, and get the
    password and everything that is published.

    This protects from eavesdroppers only.  For a broker with a self-signed certificate,
    use `TLSParameters` with that certificate as ``cafile``, which is safe.

    No URI can ask for this, and no other setting turns into it.
    """

    verified: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cafile is not None or self.trust_root is not None:
            raise InvalidURI(
                "UnverifiedTLS trusts everybody: cafile and trust_root mean nothing; "
                "TLSParameters is what checks certificates"
            )


# What is allowed: the smallest and largest number.  0 is "no limit" where AMQP
# says so; 8192 is the least that RabbitMQ 4 takes.
_WHOLE_NUMBERS = {
    "heartbeat": (0, 0xFFFF),
    "channel_max": (0, 0xFFFF),
    "frame_max": (8192, 0xFFFFFFFF),
    "max_body_size": (0, 2**63 - 1),
}

_SECONDS = ("connection_timeout", "handshake_timeout", "close_timeout", "read_pause")


class _Credentials:
    """
    The attribute ``credentials``: takes one or several, and is a tuple.
    """

    def __init__(self, default: tuple[ICredentials, ...]) -> None:
        self._default = default

    def __get__(
        self, instance: object | None, owner: object = None
    ) -> tuple[ICredentials, ...]:
        if instance is None:  # dataclass asks for the default
            return self._default
        credentials: tuple[ICredentials, ...] = vars(instance)["credentials"]
        return credentials

    def __set__(
        self, instance: object, value: AnyCredentials | Sequence[AnyCredentials]
    ) -> None:
        vars(instance)["credentials"] = _checked(value)


def _checked(given: object) -> tuple[ICredentials, ...]:
    advice = "give an object such as PlainCredentials(user, password), or several"
    # Its repr is not shown: it may be the password itself.
    kind = type(given).__name__
    if ICredentials.providedBy(given):
        given = (given,)
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise LocalProtocolError(f"credentials is of type {kind}: {advice}")
    checked = tuple(given)
    if not checked:
        raise LocalProtocolError(f"credentials is empty: {advice}")
    for each in checked:
        if not ICredentials.providedBy(each):
            raise LocalProtocolError(
                f"credentials has an object of type {type(each).__name__}, which does "
                f"not provide ICredentials: {advice}"
            )
    return checked


@dataclass(frozen=True, kw_only=True)
class ConnectionParameters:
    """
    The parameters of one connection.

    :ivar host: a host name or an IP address, without brackets.
    :ivar port: the port; by default 5671 with TLS and 5672 without
        (see `port_number`).
    :ivar virtual_host: the virtual host; "" is another virtual host than ``/``.
    :ivar tls: the parameters of TLS; None for a connection without TLS.
    :ivar credentials: the user to log in as: one object such as `PlainCredentials`, or
        several in order of preference, of which the first is used whose mechanism the
        broker offers.  The attribute is a tuple.
    :ivar heartbeat: the heartbeat interval to ask for, in seconds; the broker's counts
        if that is lower.  A peer that is silent for two intervals is given up.  0
        switches heartbeats off.
    :ivar connection_timeout: the time limit for TCP to connect to one address of the
        host, in seconds.
    :ivar handshake_timeout: the time limit from the beginning until AMQP is open, in
        seconds.
    :ivar close_timeout: the time limit for the broker to confirm a close, in seconds.
    :ivar read_pause: how many seconds to wait before the next read when small pieces
        come fast, and no answer is due: deliveries cost less, and are late by so much
        at the most.  0 is never.  It has no effect with TLS, nor outside of Twisted's
        own TCP transport.
    :ivar channel_max: the maximum number of channels; 0 takes the broker's.
    :ivar frame_max: the size of the largest frame, in bytes; 0 takes the broker's.
    :ivar max_body_size: the size of the largest message to receive, in bytes.
    :ivar name: the name of the connection in RabbitMQ's management UI and logs.
    :ivar client_properties: further properties for ``connection.start-ok``.
    :ivar locale: the language of the broker's texts; RabbitMQ has ``en_US`` only.
    """

    host: str = "localhost"
    port: int | None = None
    virtual_host: str = "/"
    tls: TLSParameters | None = None
    credentials: _Credentials = _Credentials((PlainCredentials("guest", "guest"),))
    heartbeat: int = 60
    connection_timeout: float = 10.0
    handshake_timeout: float = 10.0
    close_timeout: float = 5.0
    read_pause: float = 0.0005
    channel_max: int = 2047
    frame_max: int = 131072
    max_body_size: int = 64 * 1024 * 1024
    name: str = ""
    client_properties: Mapping[str, Any] = field(default_factory=dict, hash=False)
    locale: str = "en_US"

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_properties", dict(self.client_properties))
        _check_text(self, "host", "locale")
        for name in ("host", "virtual_host", "name", "locale"):
            if not isinstance(getattr(self, name), str):
                raise InvalidURI(f"{name} is {getattr(self, name)!r}, not a text")
        try:
            length = len(self.virtual_host.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise InvalidURI("virtual_host cannot be encoded in UTF-8") from None
        if length > 255:
            raise InvalidURI(f"virtual_host is {length} bytes long, more than 255")
        if self.tls is not None and not isinstance(self.tls, TLSParameters):
            raise InvalidURI(f"tls is {self.tls!r}, neither TLSParameters nor None")
        if self.port is not None:
            _check_whole_number("port", self.port, 1, 0xFFFF)
        for name, (least, most) in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if name != "frame_max" or value != 0:
                _check_whole_number(name, value, least, most)
        for name in _SECONDS:
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise InvalidURI(f"{name} is {seconds!r}, not a number")
            if not 0 < seconds < math.inf and (name != "read_pause" or seconds != 0):
                raise InvalidURI(f"{name} is {seconds!r}, not above 0")

    def __str__(self) -> str:
        return self.display

    @property
    def port_number(self) -> int:
        """
        The port to connect to: ``port``, or the default with or without TLS.
        """
        if self.port is not None:
            return self.port
        return 5672 if self.tls is None else 5671

    @property
    def certified_name(self) -> str | None:
        """
        The host name or IP address that the broker's certificate has to name.  None
        without TLS, and with `UnverifiedTLS`.
        """
        if self.tls is None or not self.tls.verified:
            return None
        name = self.tls.server_name or self.host
        # A certificate has neither the zone of fe80::1%eth0 nor the dot of "host.".
        return name.partition("%")[0].removesuffix(".")

    @property
    def display(self) -> str:
        """
        The URI without password and query, for people and logs.
        """
        username = getattr(self.credentials[0], "username", None)
        user = f"{_quoted(username)}@" if isinstance(username, str) else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "amqp" if self.tls is None else "amqps"
        vhost = _quoted(self.virtual_host)
        return f"{scheme}://{user}{host}:{self.port_number}/{vhost}"

    @classmethod
    def from_uri(cls, uri: str | bytes) -> Self:
        """
        Make parameters from an ``amqp://`` or ``amqps://`` URI.

        The URI follows RabbitMQ's URI specification.  Each part can have
        percent-escapes.  ``amqp://host`` means the virtual host ``/``, also written
        ``%2F``; ``amqp://host/`` means the virtual host with the empty name.  A user
        without a password has the empty password.  The query can have

        - ``heartbeat`` (seconds), ``connection_timeout`` (milliseconds),
          ``channel_max``, ``frame_max``, and ``name``, for the connection;
        - ``auth_mechanism``, any number of times in order of preference: ``plain``,
          ``amqplain``, ``external`` or ``anonymous``;
        - for ``amqps`` only, ``cacertfile``, ``certfile``, ``keyfile``,
          ``server_name_indication``, and ``verify``, which must be ``verify_peer``.

        Any other parameter is an error.

        :raises InvalidURI: the text names the part that is wrong, and does not quote
            the URI.
        """
        parts: _uri.URI | None = None
        try:
            parts = _uri.parse(uri)
            return cls(**_settings(parts))
        except InvalidURI as error:
            problem = str(error)
        # Raised afresh: the stack of the first has the password on it.
        del uri, parts
        raise InvalidURI(problem)


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogateescape")


def _check_whole_number(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidURI(f"{name} is {value!r}, not a whole number")
    if not least <= value <= most:
        zero = "0, or " if name == "frame_max" else ""
        raise InvalidURI(f"{name} is {value}, not {zero}from {least} to {most}")


# -- the query of a URI -----------------------------------------------------------


def _whole_number(name: str, value: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", value):
        raise InvalidURI(f"{name} is {value!r}, not a whole number")
    number = int(value)
    if name in _WHOLE_NUMBERS and (name != "frame_max" or number):
        _check_whole_number(name, number, *_WHOLE_NUMBERS[name])
    return number


def _milliseconds(name: str, value: str) -> float:
    milliseconds = _whole_number(name, value)
    if milliseconds == 0:
        raise InvalidURI(f"{name} is 0, not above 0 (it counts milliseconds)")
    return milliseconds / 1000


def _text(name: str, value: str) -> str:
    if not value:
        raise InvalidURI(f"{name} is empty")
    return value


def _verify(name: str, value: str) -> None:
    if value == "verify_none":
        raise InvalidURI(
            "verify=verify_none is not for URIs: to talk to a broker that need not "
            "prove who it is, say so in Python, by "
            "ConnectionParameters(tls=UnverifiedTLS(), ...)"
        )
    if value != "verify_peer":
        raise InvalidURI(f"{name} is {value!r}; it can only be verify_peer")


# RabbitMQ's name, our name, and what makes the value of the text.
_PARAMETERS: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "heartbeat": ("heartbeat", _whole_number),
    "connection_timeout": ("connection_timeout", _milliseconds),
    "channel_max": ("channel_max", _whole_number),
    "frame_max": ("frame_max", _whole_number),
    "name": ("name", _text),
}

_TLS_PARAMETERS: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "cacertfile": ("cafile", _text),
    "certfile": ("certfile", _text),
    "keyfile": ("keyfile", _text),
    "server_name_indication": ("server_name", _text),
    "verify": ("", _verify),
}

_KNOWN = [*_PARAMETERS, *_TLS_PARAMETERS, "auth_mechanism"]

_MECHANISMS: dict[str, Callable[[str, str], ICredentials]] = {
    "plain": PlainCredentials,
    "amqplain": AMQPlainCredentials,
    "external": lambda username, password: ExternalCredentials(),
    "anonymous": lambda username, password: AnonymousCredentials(),
}


def _settings(uri: _uri.URI) -> dict[str, Any]:
    """
    The arguments of `ConnectionParameters` for a URI.
    """
    settings: dict[str, Any] = {"port": uri.port}
    if uri.host is not None:
        settings["host"] = uri.host
    if uri.virtual_host is not None:
        settings["virtual_host"] = uri.virtual_host
    tls: dict[str, Any] = {}
    mechanisms: list[str] = []
    seen: set[str] = set()
    for name, value in uri.query:
        if name == "auth_mechanism":
            mechanisms.append(_mechanism(value))
            continue
        if name in seen:
            raise InvalidURI(f"the parameter {name} is there more than once")
        seen.add(name)
        if name in _PARAMETERS:
            ours, understand = _PARAMETERS[name]
            settings[ours] = understand(name, value)
        elif name not in _TLS_PARAMETERS:
            raise InvalidURI(_unknown(name))
        elif not uri.secure:
            raise InvalidURI(f"the parameter {name} is for amqps://, not for amqp://")
        else:
            ours, understand = _TLS_PARAMETERS[name]
            tls[ours] = understand(name, value)
    tls.pop("", None)
    if uri.secure:
        settings["tls"] = TLSParameters(**tls)
    if uri.username is not None or mechanisms:
        username = "guest" if uri.username is None else uri.username
        # Only the user guest has a password that one need not say.
        password = "guest" if uri.username is None else uri.password or ""
        settings["credentials"] = tuple(
            _MECHANISMS[each](username, password)
            for each in dict.fromkeys(mechanisms or ["plain"])
        )
    return settings


def _mechanism(value: str) -> str:
    name = value.lower()
    if name not in _MECHANISMS:
        raise InvalidURI(
            f"auth_mechanism is {value!r}; it can be {', '.join(_MECHANISMS)}"
        )
    return name


def _unknown(name: str) -> str:
    if name in {each.name for each in fields(ConnectionParameters)}:
        return f"the parameter {name} is not for URIs, only for ConnectionParameters"
    near = get_close_matches(name, _KNOWN, 1)
    advice = f"; did you mean {near[0]}?" if near else ""
    return f"the parameter {name!r} is unknown{advice}"
