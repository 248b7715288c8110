# -*- test-case-name: txamqp091.test.unit.adapters.test_tls -*-
"""
TLS by Python's own ssl module, for loops that are not Twisted's.

The parameters, and what the broker has to prove, are the same as in `txamqp091._tls`.
pyOpenSSL and service-identity are not needed.
"""

from __future__ import annotations

__all__ = ["context_for", "explained", "secured", "server_name", "verify_names"]

import ssl
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from txamqp091._hosts import ascii_host
from txamqp091.errors import InvalidURI, TLSFailed, printable
from txamqp091.parameters import ConnectionParameters, UnverifiedTLS

#: OpenSSL's reasons, by a part of their name: what they mean here.
_REASONS: list[tuple[str, str]] = [
    ("WRONG_VERSION_NUMBER", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("PACKET_LENGTH_TOO_LONG", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("RECORD_LAYER_FAILURE", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("HTTP_REQUEST", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("UNSUPPORTED_PROTOCOL", "the peer has no TLS version that is safe (1.2 or later)"),
    ("ALERT_PROTOCOL_VERSION", "the peer and this side have no TLS version in common"),
    ("ALERT_HANDSHAKE_FAILURE", "the peer and this side have no cipher in common"),
    ("CERTIFICATE_REQUIRED", "the peer asks for a client certificate"),
    ("ALERT_UNKNOWN_CA", "the peer does not trust our certificate's issuer"),
    ("ALERT_CERTIFICATE_EXPIRED", "the peer says that our certificate has expired"),
    ("ALERT_BAD_CERTIFICATE", "the peer does not accept our certificate"),
    ("UNEXPECTED_EOF", "the peer closed the connection in the TLS handshake"),
]


def secured(
    parameters: ConnectionParameters, context: ssl.SSLContext | None
) -> tuple[ConnectionParameters, ssl.SSLContext | None]:
    """
    Decide how a connection does TLS.

    :param context: the program's own, in place of what the parameters say.
    :returns: the parameters that fit, and the context; None is without TLS.
    :raises TypeError: the context is none.
    :raises InvalidURI: as `context_for` does; or the parameters ask for no TLS, or for
        what a context has to say itself.
    """
    if context is None:
        return parameters, context_for(parameters)
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"an ssl_context is an ssl.SSLContext, not {context!r}")
    tls = parameters.tls
    if tls is None:
        raise InvalidURI(
            "an ssl_context needs TLS: use an amqps:// URI, or "
            "ConnectionParameters(tls=TLSParameters(), ...)"
        )
    if type(tls)(server_name=tls.server_name) != tls:
        raise InvalidURI(
            "an ssl_context excludes cafile, certfile, keyfile, trust_root and "
            "connection_creator: load the certificates into the context"
        )
    if not (context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED):
        # The program has said so: the second look at the name would undo it.
        tls = UnverifiedTLS(server_name=tls.server_name)
    return replace(parameters, tls=tls), context


def context_for(parameters: ConnectionParameters) -> ssl.SSLContext | None:
    """
    Make the context of the TLS that the parameters ask for; None if they ask for none.

    :raises InvalidURI: when a file of certificates cannot be read, no host can have the
        name, or the parameters have what only Twisted's TLS understands.
    """
    tls = parameters.tls
    if tls is None:
        return None
    server_name(parameters)  # to have it refused before there is a connection
    if tls.trust_root is not None or tls.connection_creator is not None:
        raise InvalidURI(
            "trust_root and connection_creator are for TLS by Twisted; here, the "
            "authorities to trust come from a cafile"
        )
    try:
        context = ssl.create_default_context(cafile=tls.cafile)
    except (OSError, ValueError) as problem:  # a ValueError is for a path with a NUL
        raise InvalidURI(_unreadable("cafile", tls.cafile, problem)) from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    # Python 3.13 refuses authorities that Twisted, and older Pythons, trust.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certfile is not None:
        try:
            context.load_cert_chain(tls.certfile, tls.keyfile, _no_passphrase)
        except InvalidURI:
            raise
        except (OSError, ValueError) as problem:
            files = f"{tls.certfile} or {tls.keyfile}"
            raise InvalidURI(_unreadable("certfile", files, problem)) from problem
    if not tls.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_passphrase() -> str:
    # Without this, OpenSSL would ask for it on the terminal.
    raise InvalidURI("keyfile: a key with a passphrase is not supported")


def _unreadable(name: str, path: str | None, problem: Exception) -> str:
    words = getattr(problem, "reason", None) or getattr(problem, "strerror", None)
    return f"{name}: cannot use {printable(str(path))}: {words or problem}"


def server_name(parameters: ConnectionParameters) -> str:
    """
    Tell which host the broker has to be, by its certificate.

    :raises InvalidURI: no host can have the name.
    """
    tls = parameters.tls
    name = tls.server_name if tls is not None and tls.server_name else parameters.host
    return ascii_host(name.partition("%")[0].removesuffix("."))


def verify_names(certificate: dict[str, Any] | None, hostname: str) -> None:
    """
    Check that a certificate is for a host, by its subjectAltName only.  OpenSSL has
    checked the certificate before.

    :raises TLSFailed: the certificate is for another host.
    """
    if not certificate:
        raise TLSFailed("the peer has sent no certificate")
    names: list[tuple[str, str]] = list(certificate.get("subjectAltName", ()))
    if not any(_fits(kind, name, hostname) for kind, name in names):
        hosts = ", ".join(f"{kind}:{name}" for kind, name in names) or "no host"
        raise TLSFailed(
            f"the peer's certificate is for {printable(hosts)}, not for {hostname}"
        )


def _fits(kind: str, name: str, hostname: str) -> bool:
    try:
        address = ip_address(hostname)
    except ValueError:
        return kind == "DNS" and _fits_host(name, hostname)
    try:
        return kind == "IP Address" and ip_address(name.strip()) == address
    except ValueError:
        return False


def _fits_host(name: str, hostname: str) -> bool:
    try:
        hostname = ascii_host(hostname).lower().removesuffix(".")
    except InvalidURI:
        return False
    name = name.lower()
    if not name.startswith("*."):
        return name == hostname
    # The star is one label, and what follows it more than one.
    domain = name[2:]
    return "." in domain and hostname.partition(".")[2] == domain


def explained(problem: ssl.SSLError) -> TLSFailed:
    """
    Make our error of one of OpenSSL's.
    """
    if isinstance(problem, ssl.SSLCertVerificationError):
        words = printable(problem.verify_message)
        error = TLSFailed(f"the peer's certificate was refused: {words}")
    else:
        reason = getattr(problem, "reason", None) or str(problem)
        for part, words in _REASONS:
            if part in reason:
                error = TLSFailed(f"{words} ({reason})")
                break
        else:
            error = TLSFailed(f"TLS failed ({printable(reason)})")
    error.__cause__ = problem
    return error
