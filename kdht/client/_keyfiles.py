"""Secret keys in files: for signed values, and for sealed ones.

A file has one line of text:

    kdht-sign1.<base64url of 32 bytes and a check>     the seed of an Ed25519 key pair
    kdht-seal1.<base64url of 32 bytes and a check>     a key for sealing values

The check is the BLAKE2b-64 of the word before the point and the 32 bytes. So a file that was cut, or is another one, is
noticed before anything is written with it.
"""

import binascii
import os
import secrets
import stat
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import ClassVar, Self

from kdht.errors import ConfigError
from kdht.remedies import about_file
from kdht.wire.sodium import library

KEY_LEN = 32
# Bytes: a mistyped key must not pass, and nobody attacks a check of one's own file.
_CHECK_LEN = 8
# A key file has one short line. This keeps a wrong path, such as a disk image, from filling the memory.
_MAX_FILE = 4096
MODE = 0o600
"""Of a new file."""
Path = str | os.PathLike[str]
Warn = Callable[[str], object]


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


class SecretKey:
    """32 secret bytes of one use."""

    word: ClassVar[str]
    """The first word of its text."""
    use: ClassVar[str]
    """In messages."""

    def __init__(self, secret: bytes) -> None:
        """Raises ValueError for another number of bytes."""
        if not isinstance(secret, bytes) or len(secret) != KEY_LEN:
            raise ValueError(f"a key for {self.use} has {KEY_LEN} bytes")
        self.secret = secret

    @classmethod
    def new(cls) -> Self:
        """A random one."""
        return cls(secrets.token_bytes(KEY_LEN))

    def __str__(self) -> str:
        """The text of its file, without the end of the line. Secret."""
        return f"{self.word}.{urlsafe_b64encode(self.secret + _check(self.word, self.secret)).decode()}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @classmethod
    def parse(cls, text: str, where: str = "the key") -> Self:
        """From the text of a file. Raises ConfigError, which names `where` and not the text."""
        word, _, rest = text.strip().partition(".")
        if word != cls.word:
            kind = next(
                (each.use for each in SecretKey.__subclasses__() if each.word == word), "nothing of kdht's"
            )
            raise ConfigError(
                f"{where} is a key for {kind}, not for {cls.use}: make one with kdhtctl key new --for"
            )
        try:
            raw = urlsafe_b64decode(rest)
        except (binascii.Error, ValueError):
            raw = b""
        secret = raw[:KEY_LEN]
        if len(raw) != KEY_LEN + _CHECK_LEN or raw[KEY_LEN:] != _check(word, secret):
            raise ConfigError(f"{where} is damaged: its check does not fit; take it from a backup")
        return cls(secret)

    @classmethod
    def load(cls, path: Path, warn: Warn = _warn) -> Self:
        """From a file. `warn` is called if other users may read it. Raises ConfigError."""
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MAX_FILE)
        except OSError as error:
            raise ConfigError(about_file(path, error)) from None
        if stat.S_ISREG(mode) and mode & 0o077:
            warn(f"{os.fspath(path)} can be read by other users: chmod 600 {os.fspath(path)}")
        return cls.parse(data.decode("ascii", "replace"), os.fspath(path))

    def save(self, path: Path) -> None:
        """As `write_secret`."""
        write_secret(path, str(self))


class SigningKey(SecretKey):
    """Signs values. Whoever has its public key can read and check them."""

    word = "kdht-sign1"
    use = "signing"

    @property
    def public_key(self) -> bytes:
        """32 bytes. Raises MissingLibrary without libsodium."""
        public: bytes = library().public_key(self.secret)
        return public


class SealKey(SecretKey):
    """Seals values. Whoever has it can read and write them."""

    word = "kdht-seal1"
    use = "sealing"

    @property
    def id(self) -> bytes:
        """4 bytes that say which key it is, and nothing about it."""
        return blake2b(self.secret, digest_size=4, person=b"kdht-seal-id").digest()


def write_secret(path: Path, text: str) -> None:
    """Into a new file for its owner only. Raises ConfigError; a file that is there is never replaced."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except FileExistsError:
        raise ConfigError(
            f"{os.fspath(path)} already exists, and a secret is never replaced: choose another name"
        ) from None
    except OSError as error:
        raise ConfigError(about_file(path, error)) from None
    with open(fd, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
        # On the disk before it is used: a secret that is lost after a power failure cannot be made again.
        file.flush()
        os.fsync(fd)


def _check(word: str, secret: bytes) -> bytes:
    return blake2b(word.encode() + secret, digest_size=_CHECK_LEN).digest()
