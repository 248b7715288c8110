# -*- test-case-name: txamqp091.test.unit.client.test_tls -*-
"""
TLS by Twisted, and the errors of transports.

`connection_creator` makes Twisted's creator of TLS connections from parameters,
`verify_peer` checks the names in the peer's certificate, and `translate_failure` makes
an error of this package for what ends a transport.  pyOpenSSL and service-identity are
optional: the functions that need them import them.
"""

from __future__ import annotations

__all__ = [
    "Stage",
    "connection_creator",
    "handshake_completed",
    "translate_failure",
    "verify_peer",
]

import enum
from typing import TYPE_CHECKING, Any, cast

from twisted.internet import error
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure
from zope.interface import implementer

from txamqp091._hosts import ascii_host, is_address
from txamqp091.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    InvalidURI,
    TLSFailed,
    printable,
)
from txamqp091.parameters import ConnectionParameters, TLSParameters

if TYPE_CHECKING:
    from OpenSSL.SSL import Connection
    from twisted.protocols.tls import TLSMemoryBIOProtocol

_MISSING = "TLS needs pyOpenSSL and service-identity: pip install txamqp091[tls]"


# -- making connections -----------------------------------------------------------


def connection_creator(
    parameters: ConnectionParameters,
) -> IOpenSSLClientConnectionCreator:
    """
    Make the creator of TLS connections for parameters.

    :raises InvalidURI: when a certificate file cannot be read, or no host can have the
        name.
    :raises TLSFailed: when the packages for TLS are missing.
    """
    try:
        import service_identity  # noqa: F401
        from twisted.internet import ssl
    except ImportError as missing:
        raise TLSFailed(_MISSING) from missing
    tls = parameters.tls
    assert tls is not None, "only called for TLS"
    if tls.connection_creator is not None:
        return tls.connection_creator
    # Twisted's default today; said here so that it stays the least.
    extra: dict[str, Any] = {"raiseMinimumTo": ssl.TLSVersion.TLSv1_2}
    own = None
    if tls.certfile is not None:
        own, chain = _own_certificate(tls)
        if chain:
            extra["extraCertChain"] = chain
    if not tls.verified:
        if own is not None:
            extra["privateKey"] = own.privateKey.original
            extra["certificate"] = own.original
        return _Unverified(ssl.CertificateOptions(**extra), tls.server_name)
    # Only Twisted knows the type of it: its interface has no public name.
    trust_root: Any = tls.trust_root
    if tls.cafile is not None:
        trust_root = ssl.trustRootFromCertificates(
            [ssl.Certificate(each) for each in _certificates("cafile", tls.cafile)]
        )
    name = parameters.certified_name
    assert name is not None, "whoever is verified has a name"
    name = ascii_host(name)
    creator: IOpenSSLClientConnectionCreator
    try:
        creator = ssl.optionsForClientTLS(
            name,
            trustRoot=trust_root,
            clientCertificate=own,
            extraCertificateOptions=extra,
        )
    except UnicodeError:  # such as an underscore, to which IDNA objects
        if own is not None:
            extra["privateKey"] = own.privateKey.original
            extra["certificate"] = own.original
        if trust_root is None:
            trust_root = ssl.platformTrust()
        options = ssl.CertificateOptions(trustRoot=trust_root, **extra)
        creator = _Verified(options, name)
    return creator


@implementer(IOpenSSLClientConnectionCreator)
class _Verified:
    """
    TLS connections to a host whose name Twisted refuses, such as one with an
    underscore.
    """

    def __init__(self, options: Any, name: str):
        from OpenSSL import SSL

        self._name = name
        self._context = options.getContext()
        self._context.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._accepts
        )

    def _accepts(
        self, connection: object, certificate: Any, code: int, depth: int, ok: int
    ) -> bool:
        if not ok or depth:
            return bool(ok)
        return not _name_problem(certificate.to_cryptography(), self._name)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Connection:
        """
        See ``IOpenSSLClientConnectionCreator``.
        """
        from OpenSSL.SSL import Connection

        connection = Connection(self._context, None)
        connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """
    TLS connections without verification.
    """

    def __init__(self, options: Any, server_name: str | None):
        self._options = options
        self._server_name = None if server_name is None else ascii_host(server_name)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Connection:
        """
        See ``IOpenSSLClientConnectionCreator``.
        """
        from OpenSSL.SSL import Connection

        connection = Connection(self._options.getContext(), None)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name.encode("ascii"))
        return connection


def _read(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as problem:  # a ValueError is for a path with a NUL
        words = getattr(problem, "strerror", None) or str(problem)
        raise InvalidURI(f"{name}: cannot read {printable(path)}: {words}") from problem


def _certificates(name: str, path: str) -> list[Any]:
    """
    Read the certificates in a PEM file, as pyOpenSSL's.
    """
    from cryptography import x509
    from OpenSSL.crypto import X509

    data = _read(name, path)
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as problem:
        raise InvalidURI(f"{name}: no PEM certificate in {path}") from problem
    return [X509.from_cryptography(each) for each in found]


def _own_certificate(tls: TLSParameters) -> tuple[Any, list[Any]]:
    """
    Read the client's certificate with its key, and the intermediate certificates.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from OpenSSL.crypto import PKey
    from twisted.internet import ssl

    assert tls.certfile is not None and tls.keyfile is not None
    own, *chain = _certificates("certfile", tls.certfile)
    data = _read("keyfile", tls.keyfile)
    # By OpenSSL itself, it would ask for a passphrase on the terminal.
    problem = ""
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        problem = "is protected by a passphrase, which is not supported"
    except ValueError:
        problem = "has no PEM private key in it"
    # A traceback can show the variables of this frame.
    del data
    if problem:
        raise InvalidURI(f"keyfile: {tls.keyfile} {problem}")
    pair = ssl.KeyPair(PKey.from_cryptography_key(key))  # type: ignore[arg-type]
    if key.public_key() != own.to_cryptography().public_key():
        raise InvalidURI(
            f"keyfile: {tls.keyfile} is not the key of the certificate {tls.certfile}"
        )
    return ssl.PrivateCertificate.fromCertificateAndKeyPair(
        ssl.Certificate(own), pair
    ), chain


# -- who the peer is ----------------------------------------------------------------


def verify_peer(transport: object, hostname: str) -> None:
    """
    Check that the peer's certificate is for ``hostname``.

    This is the second check, after that of the TLS handshake and before the first byte
    of AMQP.  It takes the subjectAltName only.  (Twisted 26 accepts certificates
    without one, and a program's own connection creator can accept anything.)

    :param transport: the transport of a protocol over TLS.  The transports of
        `txamqp091.adapters`, whose TLS is not pyOpenSSL's, do the check themselves.
    :param hostname: a host name or an IP address.
    :raises TLSFailed: the text has the names that the certificate is for.
    """
    verify_names = getattr(transport, "verify_names", None)
    if verify_names is not None:
        verify_names(hostname)
        return
    certificate = _leaf(transport)
    if certificate is None:
        raise TLSFailed("the peer has sent no certificate")
    problem = _name_problem(certificate, hostname)
    if problem:
        raise TLSFailed(problem)


def handshake_completed(transport: object) -> bool:
    """
    Whether the TLS handshake of a transport has completed.
    """
    handle = _handle(transport)
    return handle is not None and handle.get_peer_finished() is not None


def _handle(transport: object) -> Any:
    """
    pyOpenSSL's connection behind a transport, or ``None``.
    """
    handle = getattr(transport, "getHandle", lambda: None)()
    return handle if hasattr(handle, "get_peer_certificate") else None


def _leaf(transport: object) -> Any:
    handle = _handle(transport)
    certificate = handle and handle.get_peer_certificate()
    return certificate and certificate.to_cryptography()


def _name_problem(certificate: Any, hostname: str) -> str:
    """
    The reason why a certificate is not valid for a host, or "".
    """
    from service_identity import CertificateError, VerificationError
    from service_identity.cryptography import (
        verify_certificate_hostname,
        verify_certificate_ip_address,
    )

    try:
        names = _names(certificate)
    except ValueError:
        return "the peer's certificate is malformed"
    if not any(kind in ("DNS", "IP") for kind, _ in names):
        return (
            "the peer's certificate has no subjectAltName with a host in it, so it is "
            f"not valid for {hostname} (its subject is "
            f"{printable(certificate.subject.rfc4514_string())}, which does not count)"
        )
    try:
        if is_address(hostname):
            verify_certificate_ip_address(certificate, hostname)
        else:
            verify_certificate_hostname(certificate, ascii_host(hostname))
    except (CertificateError, VerificationError, ValueError):
        whom = ", ".join(f"{kind}:{name}" for kind, name in names)
        return f"the peer's certificate is for {printable(whom)}, not for {hostname}"
    return ""


def _names(certificate: Any) -> list[tuple[str, str]]:
    """
    The names in a certificate, as pairs such as ``("DNS", "rabbit.example")``.
    """
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return []
    kinds: dict[type[Any], str] = {x509.DNSName: "DNS", x509.IPAddress: "IP"}
    return [
        (kinds.get(type(each), "other"), str(each.value)) for each in extension.value
    ]


# -- what went wrong, in words --------------------------------------------------------


class Stage(enum.Enum):
    """
    How far a connection has come when its transport ends.
    """

    #: There is no transport yet.
    CONNECTING = "connecting"
    #: The TLS handshake is running.
    TLS_HANDSHAKE = "TLS handshake"
    #: The peer has not spoken AMQP.  In TLS 1.3 it can still refuse our certificate.
    GREETING = "greeting"
    #: The peer speaks AMQP.
    AMQP = "AMQP"


def translate_failure(
    reason: Failure | BaseException,
    *,
    stage: Stage = Stage.CONNECTING,
    transport: object = None,
    hostname: str | None = None,
    peer: str = "",
) -> ConnectionClosed:
    """
    The error of this package for what ended a transport, or prevented one.

    :param reason: what Twisted or OpenSSL raised.  It becomes the ``__cause__``; an
        error of this package is returned as it is.
    :param stage: how far the connection had come.  Before AMQP, a TLS error is
        `TLSFailed`; later the connection was good, and is lost.
    :param transport: the transport, while it still has its certificates: in
        ``connectionLost``.  Without it a refused certificate is not explained.
    :param hostname: the name that the certificate should have had.
    :param peer: the host, for the text.
    """
    # A Failure's value is only absent while it is being made.
    cause = cast(BaseException, reason.value if isinstance(reason, Failure) else reason)
    kind: type[ConnectionClosed]
    if isinstance(cause, TLSFailed) and stage is Stage.AMQP and cause.__cause__:
        cause = cause.__cause__  # an adapter's transport knows no stages
        kind, words = ConnectionLost, _tls_loss(cause)
    elif isinstance(cause, ConnectionClosed):
        return cause
    else:
        kind, words = _problem(cause, stage, transport, hostname)
    closing = getattr(transport, "disconnecting", False) is True
    by_us = isinstance(cause, error.ConnectionAborted)
    if closing and isinstance(cause, error.ConnectionDone):
        by_us, words = True, "this side closed the transport (loseConnection)"
    translated = kind(f"{peer}: {words}" if peer else words, by_us=by_us)
    translated.__cause__ = cause
    return translated


def _problem(
    cause: BaseException, stage: Stage, transport: object, hostname: str | None
) -> tuple[type[ConnectionClosed], str]:
    if _is_tls(cause):
        if stage is Stage.AMQP:
            return ConnectionLost, _tls_loss(cause)
        return TLSFailed, _tls_problem(cause, transport, hostname)
    if stage is Stage.TLS_HANDSHAKE and isinstance(cause, error.ConnectionClosed):
        return (
            TLSFailed,
            "the peer closed the connection in the TLS handshake; does it speak TLS?",
        )
    kind, table, rest = (
        (ConnectFailed, _CONNECTING, "cannot connect")
        if stage is Stage.CONNECTING
        else (ConnectionLost, _CONNECTED, "the connection was lost")
    )
    for type_, words in table:
        if isinstance(cause, type_):
            # The operating system's or the resolver's own words.
            said = [each for each in cause.args if isinstance(each, str) and each]
            return kind, f"{words} ({printable(said[0])})" if said else words
    text = printable(str(cause))
    details = f"{type(cause).__name__}: {text}" if text else type(cause).__name__
    return kind, f"{rest} ({details})"


# What ends a transport, by the first class that fits.
_CONNECTED: list[tuple[type[BaseException], str]] = [
    (error.ConnectionDone, "the peer closed the connection"),
    (error.ConnectionAborted, "this side aborted the transport (abortConnection)"),
    (error.ConnectionLost, "the connection was lost"),
]

# What prevents one.
_CONNECTING: list[tuple[type[BaseException], str]] = [
    (error.ConnectionRefusedError, "no server listens there"),
    (error.DNSLookupError, "the host name is unknown"),
    (error.UnknownHostError, "the host name is unknown"),
    (error.NoRouteError, "there is no route to the host"),
    (error.TCPTimedOutError, "connecting took too long"),
    (error.TimeoutError, "connecting took too long"),
    (error.ConnectError, "cannot connect"),
    *_CONNECTED,
]


# OpenSSL's reasons, by a part of their text: what they mean here.
_TLS: list[tuple[str, str]] = [
    ("wrong version number", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("packet length too long", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("http request", "the peer does not speak TLS: amqp:// or port 5671?"),
    ("unsupported protocol", "the peer has no TLS version that is safe (1.2 or later)"),
    ("alert protocol version", "the peer and this side have no TLS version in common"),
    ("alert handshake failure", "the peer and this side have no cipher in common"),
    ("certificate required", "the peer asks for a client certificate"),
    ("alert unknown ca", "the peer does not trust our certificate's issuer"),
    ("alert certificate expired", "the peer says that our certificate has expired"),
    ("alert certificate revoked", "the peer says that our certificate is revoked"),
    ("alert bad certificate", "the peer does not accept our certificate"),
    ("alert unsupported certificate", "the peer does not accept our certificate"),
    ("alert certificate unknown", "the peer does not accept our certificate"),
    ("alert access denied", "the peer refuses access"),
    ("unexpected eof", "the peer closed the connection in the TLS handshake"),
]


def _is_tls(cause: BaseException) -> bool:
    # By name: where the packages are not installed, they raise nothing.
    package = type(cause).__module__.partition(".")[0]
    return package in ("OpenSSL", "service_identity")


def _tls_loss(cause: BaseException) -> str:
    """
    The text for an open connection that a TLS error has ended.
    """
    text = "; ".join(_reasons(cause)) or str(cause) or type(cause).__name__
    return f"the connection was lost by a TLS error ({printable(text)})"


def _tls_problem(cause: BaseException, transport: object, hostname: str | None) -> str:
    reasons = _reasons(cause)
    text = "; ".join(reasons) or str(cause) or type(cause).__name__
    if "certificate verify failed" in text or not reasons:
        # That is OpenSSL, or service-identity, and neither has said why.
        return _certificate_problem(transport, hostname) or (
            f"the peer's certificate was refused ({printable(text)})"
        )
    for part, words in _TLS:
        if part in text:
            return f"{words} ({text})"
    return f"TLS failed ({printable(text)})"


def _reasons(cause: BaseException) -> list[str]:
    """
    The texts in an error of OpenSSL's, whose argument is a list of triples.
    """
    queue = cause.args[0] if cause.args else None
    if not isinstance(queue, list):
        return []
    return [each[2] for each in queue if isinstance(each, tuple) and len(each) == 3]


def _certificate_problem(transport: object, hostname: str | None) -> str:
    """
    The fault of the certificates that the peer has sent, or "" if none is found.

    pyOpenSSL does not pass on OpenSSL's reason, so the certificates are verified again.
    """
    handle = _handle(transport)
    chain = handle and handle.get_peer_cert_chain()
    if not chain:
        return ""
    from OpenSSL.crypto import X509StoreContext, X509StoreContextError

    store = handle.get_context().get_cert_store()
    try:
        X509StoreContext(store, chain[0], chain).verify_certificate()
    except X509StoreContextError as refused:
        code, depth, text = refused.errors
        whose = "the peer's certificate" if depth == 0 else "an issuer's certificate"
        words = _CHAIN.get(code, "was refused")
        certificate = refused.certificate.to_cryptography()
        subject = printable(certificate.subject.rfc4514_string())
        issuer = printable(certificate.issuer.rfc4514_string())
        return f"{whose} {words} ({text}; subject {subject}, issuer {issuer})"
    return _name_problem(chain[0].to_cryptography(), hostname) if hostname else ""


# X509_V_ERR_...: what is wrong with a certificate, by OpenSSL's numbers.
_CHAIN: dict[int, str] = {
    2: "is from an issuer that is not trusted",
    9: "is not yet valid",
    10: "has expired",
    18: "is self-signed and not trusted",
    19: "is self-signed and not trusted",
    20: "is from an issuer that is not trusted",
    21: "is from an issuer that is not trusted",
    23: "is revoked",
}
