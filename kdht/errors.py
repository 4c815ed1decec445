"""Every exception that kdht raises on purpose: one tree, so that one `except` catches it.

Each message says what is wrong and what to do. Only a program's main turns them into
exit codes: `exit_code`, whose meanings are in EXIT_CODES and nowhere else.
"""

EXIT_CODES = {
    0: "done",
    1: "other",
    2: "usage or configuration",
    3: "storage",
    4: "datapath",
    5: "no daemon",
    6: "request failed",
    7: "not found",
    8: "differences were found, or a condition did not hold",
    9: "too few replicas confirmed a write or answered a read",
    10: "doctor found a failure",
    11: "denied: a token with the right is needed",
    12: "the node is not ready",
    130: "interrupted",
}
"""What the programs' exit codes mean. They do not change: scripts depend on them."""

DIFFERENCES = 8
"""Of a comparison that found differences."""
UNHEALTHY = 10
"""Of an examination that found a failure."""
NOT_READY = 12
"""Of the status of a node that should not be sent requests."""


def exit_codes(*codes: int) -> str:
    """A line for a program's help; all codes without arguments."""
    chosen = codes or tuple(EXIT_CODES)
    return "Exit codes: " + ", ".join(f"{code} {EXIT_CODES[code]}" for code in chosen) + "."


class KdhtError(Exception):
    """Anything that kdht reports to a user or an application."""

    exit_code = 1


class BadPacket(KdhtError):
    """Bytes from the network that are no valid message; `reason` is a name of KDHT_REASONS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Uncertified(BadPacket):
    """A self-certified record with a wrong certificate: its key, its version or its signature is another's."""

    def __init__(self, detail: str) -> None:
        super().__init__("UNCERTIFIED", detail)


class MissingLibrary(KdhtError):
    """kdht was built without a library that this needs."""


class ConfigError(KdhtError):
    """A configuration, an argument or a file given by the user cannot be used."""

    exit_code = 2


class BadArgument(ConfigError, ValueError):
    """A number that a client is given is out of its bounds."""


class BadToken(ConfigError, ValueError):
    """A token's text cannot be used. The message never repeats it."""


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


class PortClosed(RequestTimeout):
    """No answer: the port of every node that the client may ask is closed."""


class NotFound(RequestError, KeyError):
    """The key has no value."""

    exit_code = 7

    def __str__(self) -> str:
        return Exception.__str__(self)


class PartMissing(RequestError):
    """A part of a large value is gone: the value was replaced or deleted while it was read."""


class ValueTooLarge(RequestError, ValueError):
    """The value does not fit one datagram, or not what the caller said it takes."""


class Interrupted(KdhtError):
    """The user ended long work half way; the message says what is done and how to go on."""

    exit_code = 130


class Denied(RequestError):
    """The client may not do this: it has no token, or one without the right. Nothing was changed."""

    exit_code = 11


class Conflict(RequestError):
    """A conditional write was not done: `version` stands instead of the one given, 0 for no record."""

    exit_code = 8

    def __init__(self, message: str = "", status: str | None = "CONFLICT", version: int = 0) -> None:
        super().__init__(message, status)
        self.version = version


class Disagreement(KdhtError):
    """Nodes of one cluster see it differently."""

    exit_code = 8


class Unconfirmed(RequestError):
    """Too few replicas confirmed a write, which may stand or not; or too few answered a quorum read."""

    exit_code = 9


class LabError(KdhtError):
    """The laboratory (network namespaces, test clusters) could not be built, or did not do what it should."""
