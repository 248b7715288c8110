# -*- test-case-name: txamqp091.test.unit.client.test_tls -*-
"""
A certificate authority for one test run, and the impostors it can make.

Everything is made in memory and written as PEM files into a directory of the
caller's choosing.  Nothing here is for use outside of tests: keys are not
protected and certificates are signed for whoever asks.
"""

from __future__ import annotations

__all__ = ["Authority", "Issued", "IMPOSTORS", "impostor"]

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    """
    A subjectAltName entry: an address if ``name`` reads as one, a DNS name
    otherwise, and a URI if it has a scheme.
    """
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Issued:
    """
    A certificate and its key, as PEM.

    :ivar certificate: the certificate, followed by the intermediate ones.
    """

    certificate: bytes
    key: bytes

    def write(self, directory: str | Path, stem: str) -> tuple[str, str]:
        """
        Put both into files.

        :returns: the paths of the certificate and of the key.
        """
        certificate = Path(directory, f"{stem}.pem")
        key = Path(directory, f"{stem}.key")
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key)
        key.chmod(0o600)
        return str(certificate), str(key)


def _signed_by(
    builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """
    Name the signer's key, as Python's own ``ssl`` wants it since 3.13.
    """
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return builder.add_extension(identifier, False)


class Authority:
    """
    A certificate authority.

    :ivar certificate: its own certificate, as PEM: what peers are to trust.
    """

    def __init__(
        self, common_name: str = "txamqp091 test CA", parent: Authority | None = None
    ):
        self._name = _named(common_name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(parent._name if parent else self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 400 * _DAY)
            .not_valid_after(now + 400 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                True,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()),
                False,
            )
        )
        signer = parent._key if parent else self._key
        builder = _signed_by(builder, signer)
        signed = builder.sign(signer, hashes.SHA256())
        self.certificate = signed.public_bytes(serialization.Encoding.PEM)
        self._chain: bytes = b"" if parent is None else self.certificate + parent._chain

    def write(self, directory: str | Path, stem: str = "ca") -> str:
        """
        Put the authority's certificate into a file.

        :returns: the file's path.
        """
        path = Path(directory, f"{stem}.pem")
        path.write_bytes(self.certificate)
        return str(path)

    def intermediate(self, common_name: str = "txamqp091 test CA 2") -> Authority:
        """
        An authority that this one vouches for.  What it issues comes with
        its chain.
        """
        return Authority(common_name, self)

    def issue(
        self,
        *names: str,
        common_name: str = "a test peer",
        after: timedelta = -_DAY,
        before: timedelta = 30 * _DAY,
        self_signed: bool = False,
    ) -> Issued:
        """
        Issue a certificate, for servers and clients alike.

        :param names: what the subjectAltName says.  Without any there is
            none.
        :param after: when it becomes valid, seen from now.
        :param before: when it ends to be valid, seen from now.
        :param self_signed: sign it by its own key, not by the authority's.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(common_name)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + after)
            .not_valid_after(now + before)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                False,
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(name) for name in names]),
                False,
            )
        signer = key if self_signed else self._key
        signed = _signed_by(builder, signer).sign(signer, hashes.SHA256())
        return Issued(
            signed.public_bytes(serialization.Encoding.PEM)
            + (b"" if self_signed else self._chain),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


#: The peers that a client must refuse, and a word of the reason it gives.
IMPOSTORS = {
    "wrong name": "DNS:other.example",
    "common name only": "no subjectAltName",
    "no subjectAltName": "no subjectAltName",
    "expired": "expired",
    "not yet valid": "not yet valid",
    "untrusted authority": "issuer",
    "self-signed": "self-signed",
    "address for name": "IP:127.0.0.1",
}


def impostor(kind: str, authority: Authority, host: str = "localhost") -> Issued:
    """
    The certificate of a peer that is not ``host``, or cannot prove it.

    :param kind: a key of `IMPOSTORS`.
    :param authority: the authority that the client trusts.
    """
    if kind == "wrong name":
        return authority.issue("other.example", common_name=host)
    if kind == "common name only":
        return authority.issue(common_name=host)
    if kind == "no subjectAltName":
        return authority.issue(common_name="nobody in particular")
    if kind == "expired":
        return authority.issue(host, after=-20 * _DAY, before=-_DAY)
    if kind == "not yet valid":
        return authority.issue(host, after=_DAY)
    if kind == "untrusted authority":
        return Authority("a stranger's CA").issue(host)
    if kind == "self-signed":
        return authority.issue(host, common_name=host, self_signed=True)
    if kind == "address for name":
        return authority.issue("127.0.0.1", common_name=host)
    raise ValueError(kind)
