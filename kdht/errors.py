"""Every exception that kdht raises on purpose: one tree, so that one `except` catches it.

Each message says what is wrong and what to do. Only a program's main turns them into
exit codes; `exit_code` is that program's status (sysexits-like, see docs/operating.md).
"""


class KdhtError(Exception):
    """Anything that kdht reports to a user or an application."""

    exit_code = 1


class BadPacket(KdhtError):
    """Bytes from the network that are no valid message; `reason` is a name of KDHT_REASONS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class ConfigError(KdhtError):
    """A configuration, an argument or a file given by the user cannot be used."""

    exit_code = 2


class CaptureError(ConfigError):
    """A file is no capture, or is damaged or cut off; the message has the offset."""


class StorageError(KdhtError):
    """The database cannot be opened, read or written."""

    exit_code = 3


class StorageLocked(StorageError):
    """Another process has the database open."""


class StorageDamaged(StorageError):
    """The database's files are corrupt."""


class DatapathError(KdhtError):
    """A datapath cannot be set up: no root, no nft, no NFQUEUE, a port in use."""

    exit_code = 4


class NoDaemon(KdhtError):
    """No daemon answers on the control socket."""

    exit_code = 5


class RequestError(KdhtError):
    """A request that the cluster answered with a refusal, or did not answer.

    `status` is the refusal as a name of KDHT_STATUSES, None without one.
    """

    exit_code = 6

    def __init__(self, message: str = "", status: str | None = None) -> None:
        super().__init__(message)
        self.status = status


class RequestTimeout(RequestError):
    """No answer within the time-out, after all retries."""


class NotFound(RequestError, KeyError):
    """The key has no value."""

    exit_code = 7

    def __str__(self) -> str:
        return Exception.__str__(self)


class ValueTooLarge(RequestError, ValueError):
    """The value does not fit one datagram, or not what the caller said it takes."""


class LabError(KdhtError):
    """The laboratory (network namespaces, test clusters) could not be built, or did not do what it should."""
