"""Certificates of a CA of our own, so that local servers speak TLS and clients verify them as they would others."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ops.local.ports import LOOPBACK

_VALID_FOR = timedelta(days=1)
_CLOCK_SKEW = timedelta(minutes=5)


class Certificates:
    """PEM files in one folder: the CA's certificate, and one with its key for a server and for a client.

    They exist once `make` returns. Only their owner may read the keys; that of the CA is never written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self.ca_file = self._directory / "ca.crt"
        self.server_cert_file = self._directory / "server.crt"
        self.server_key_file = self._directory / "server.key"
        self.client_cert_file = self._directory / "client.crt"
        self.client_key_file = self._directory / "client.key"

    def make(self) -> None:
        """Make them anew, valid for a day; the server's names are 127.0.0.1 and localhost."""
        self._directory.mkdir(parents=True, exist_ok=True)
        ca = _Authority()
        self.ca_file.write_bytes(ca.certificate.public_bytes(Encoding.PEM))

        server_key, client_key = _new_key(), _new_key()
        hosts = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK)), x509.DNSName("localhost")])
        server = ca.issue("server", server_key, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), hosts])
        client = ca.issue("client", client_key, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
        _write(server, self.server_cert_file, server_key, self.server_key_file)
        _write(client, self.client_cert_file, client_key, self.client_key_file)


class _Authority:
    def __init__(self) -> None:
        self._key = _new_key()
        self._name = _name("CA")
        self.certificate = self._sign(
            self._name,
            self._key.public_key(),
            x509.BasicConstraints(ca=True, path_length=0),
            _key_usage(signs_certificates=True),
        )

    def issue(
        self, name: str, key: ec.EllipticCurvePrivateKey, extensions: list[x509.ExtensionType]
    ) -> x509.Certificate:
        return self._sign(
            _name(name),
            key.public_key(),
            x509.BasicConstraints(ca=False, path_length=None),
            _key_usage(signs_certificates=False),
            *extensions,
        )

    def _sign(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + _VALID_FOR)
        )
        # Python's verifier wants both key identifiers from 3.13 on.
        identifiers = (
            x509.SubjectKeyIdentifier.from_public_key(public_key),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
        )
        for extension in (*identifiers, *extensions):
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, SHA256())


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(role: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"supportstream local {role}")])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    certificate: x509.Certificate, certificate_file: Path, key: ec.EllipticCurvePrivateKey, key_file: Path
) -> None:
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
