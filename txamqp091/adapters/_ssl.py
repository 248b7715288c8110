# -*- test-case-name: txamqp091.test.unit.adapters.test_tls -*-
"""
TLS by Python's own ssl module, for loops that are not Twisted's.

What the parameters mean is the same as in `txamqp091._tls`, and so is what the broker
has to prove; pyOpenSSL and service-identity are not needed.
"""

from __future__ import annotations

__all__ = ["context_for", "explained", "server_name", "verify_names"]

import ssl
from ipaddress import ip_address
from typing import Any

from txamqp091.errors import InvalidURI, TLSFailed, printable
from txamqp091.parameters import ConnectionParameters

#: OpenSSL's reasons, by a part of their name: what they mean here.
_REASONS: list[tuple[str, str]] = [
    ("WRONG_VERSION_NUMBER", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("PACKET_LENGTH_TOO_LONG", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("RECORD_LAYER_FAILURE", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("HTTP_REQUEST", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("UNSUPPORTED_PROTOCOL", "the peer knows no version of TLS that is safe"),
    ("ALERT_PROTOCOL_VERSION", "the peer knows no version of TLS that is safe"),
    ("CERTIFICATE_REQUIRED", "the peer asks for a client certificate"),
    ("ALERT_UNKNOWN_CA", "the peer does not trust our certificate's issuer"),
    ("ALERT_CERTIFICATE_EXPIRED", "the peer says that our certificate has expired"),
    ("ALERT_BAD_CERTIFICATE", "the peer does not accept our certificate"),
    ("UNEXPECTED_EOF", "the peer closed the connection in the TLS handshake"),
]


def context_for(parameters: ConnectionParameters) -> ssl.SSLContext | None:
    """
    The context of the TLS that the parameters ask for; None if they ask for none.

    :raises InvalidURI: when a file of certificates cannot be read, or the parameters
        have what only Twisted's TLS understands.
    """
    tls = parameters.tls
    if tls is None:
        return None
    if tls.trust_root is not None or tls.connection_creator is not None:
        raise InvalidURI(
            "trust_root and connection_creator are for TLS by Twisted; here, the "
            "authorities to trust come from a cafile"
        )
    try:
        context = ssl.create_default_context(cafile=tls.cafile)
    except OSError as problem:
        raise InvalidURI(_unreadable("cafile", tls.cafile, problem)) from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    # Python 3.13 refuses authorities that Twisted, and older Pythons, trust.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certfile is not None:
        try:
            context.load_cert_chain(tls.certfile, tls.keyfile, _no_passphrase)
        except OSError as problem:
            files = f"{tls.certfile} or {tls.keyfile}"
            raise InvalidURI(_unreadable("certfile", files, problem)) from problem
    if not tls.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_passphrase() -> str:
    # Without this, OpenSSL would ask for it on the terminal.
    raise InvalidURI("keyfile: a key with a passphrase is not supported")


def _unreadable(name: str, path: str | None, problem: OSError) -> str:
    words = getattr(problem, "reason", None) or problem.strerror or str(problem)
    return f"{name}: cannot use {path}: {words}"


def server_name(parameters: ConnectionParameters) -> str:
    """
    The host that the broker is asked to be, and that its certificate has to name.
    """
    tls = parameters.tls
    own = None if tls is None else tls.server_name
    return own or parameters.host.partition("%")[0]


def verify_names(certificate: dict[str, Any] | None, hostname: str) -> None:
    """
    Check that a certificate is for a host, by its subjectAltName only.  OpenSSL has
    checked that before.

    :raises TLSFailed: it is for somebody else.
    """
    if not certificate:
        raise TLSFailed("the peer has shown no certificate")
    names: list[tuple[str, str]] = list(certificate.get("subjectAltName", ()))
    if not any(_fits(kind, name, hostname) for kind, name in names):
        whom = ", ".join(f"{kind}:{name}" for kind, name in names) or "nobody"
        raise TLSFailed(
            f"the peer's certificate is for {printable(whom)}, not for {hostname}"
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
        hostname = hostname.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return False
    name = name.lower()
    if not name.startswith("*."):
        return name == hostname
    # The star is one label, and what follows it more than one.
    domain = name[2:]
    return "." in domain and hostname.partition(".")[2] == domain


def explained(problem: ssl.SSLError) -> TLSFailed:
    """
    Our error for one of OpenSSL's.
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
