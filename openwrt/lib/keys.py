"""Signatures, by openssl: RSA and EC keys for apk, Ed25519 keys for opkg in the format of usign.

A key is known by the public half's own bytes, those that its PEM wraps (RFC 5280, subjectPublicKey): apk takes their
SHA-512's first 16 bytes for the name, and the name that usign draws by lot is its first 8 here.
"""

import base64
import hashlib
import subprocess
import tempfile
from pathlib import Path

ED25519 = bytes.fromhex("06032b6570")  # the object identifier 1.3.101.112


class Key:
    """A private key in a PEM file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.public_pem = openssl("pkey", "-in", str(path), "-pubout")
        info = openssl("pkey", "-in", str(path), "-pubout", "-outform", "DER")
        _, body, _ = element(info)
        _, algorithm, rest = element(body)
        self.for_opkg = algorithm.startswith(ED25519)
        self.public = element(rest)[1][1:]  # a bit string begins with the number of bits to leave off: none
        self.digest = hashlib.sha512(self.public).digest()

    def write_public(self, folder: Path) -> Path:
        """Puts the public half into `folder`, as the router wants it."""
        path = folder / f"{self.path.stem}.pub{'' if self.for_opkg else '.pem'}"
        if self.for_opkg:
            path.write_bytes(usign("public key", self.digest[:8] + self.public))
        else:
            path.write_bytes(self.public_pem)
        return path

    def sign(self, data: bytes) -> bytes:
        """The signature of `data` with SHA-512, as apk checks it."""
        return openssl("dgst", "-sha512", "-sign", str(self.path), input=data)

    def usign(self, data: bytes) -> bytes:
        """The signature file of `data`, as opkg checks it."""
        with tempfile.NamedTemporaryFile() as file:  # openssl wants to know the size first
            file.write(data)
            file.flush()
            signature = openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(self.path), "-in", file.name)
        return usign(f"signed by key {self.digest[:8].hex()}", self.digest[:8] + signature)


def usign(comment: str, content: bytes) -> bytes:
    """A file of usign: two lines, the second with the algorithm before the content."""
    return f"untrusted comment: {comment}\n".encode() + base64.b64encode(b"Ed" + content) + b"\n"


def element(der: bytes) -> tuple[int, bytes, bytes]:
    """The first element of DER: its tag, its content, and what follows."""
    tag, size, start = der[0], der[1], 2
    if size & 0x80:
        start = 2 + (size & 0x7F)
        size = int.from_bytes(der[2:start], "big")
    return tag, der[start : start + size], der[start + size :]


def openssl(*arguments: str, input: bytes = b"") -> bytes:
    """What openssl says."""
    done = subprocess.run(["openssl", *arguments], input=input, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"openssl {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
