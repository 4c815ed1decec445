"""The certificate of the server, read again when its files change: certificates are renewed while the server runs."""

import asyncio
import logging
import os
import ssl

from kdht.errors import ConfigError

log = logging.getLogger(__name__)

# Programs that renew certificates write the file and tell nobody. A look is one stat(2).
LOOK_SECONDS = 2.0


class Certificate:
    """`context` is for the listening sockets. Raises ConfigError if the files cannot be used."""

    def __init__(self, certificate: str, key: str) -> None:
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._read_at = self._changed_at()
        self._read()

    async def follow(self) -> None:
        """Look for changes, without end. Files that cannot be used are logged, and the last good ones stay."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Read the files again if they have changed."""
        try:
            changed_at = self._changed_at()
            if changed_at == self._read_at:
                return
            self._read_at = changed_at
            self._try()
            self._read()
        except ConfigError as error:
            log.error("the certificate stays as it was", extra={"error": error})
        else:
            log.info("certificate read", extra={"file": self._files[0]})

    def _changed_at(self) -> tuple[int, ...]:
        try:
            return tuple(os.stat(path).st_mtime_ns for path in self._files)
        except OSError as error:
            raise self._unusable(error) from error

    def _try(self) -> None:
        """The pair may be half written: a context of its own finds out before the one in use has it."""
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def _read(self) -> None:
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            # Without a password for the key OpenSSL would ask at the terminal.
            context.load_cert_chain(*self._files, password=lambda: "")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise self._unusable(error) from error

    def _unusable(self, error: OSError | ValueError) -> ConfigError:
        certificate, key = self._files
        why = getattr(error, "strerror", None) or str(error)
        return ConfigError(
            f"http.tls_certificate is {certificate}, http.tls_key {key}: {why}: both are files in PEM, the key without a password"
        )
