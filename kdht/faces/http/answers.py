"""Answers, and what becomes of errors: problem details in JSON (RFC 9457). No I/O and no clock.

Beside the members of the RFC a problem has `code`, one word for programs, and after a failed write `done`: "no" or "perhaps".
"""

from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from kdht.errors import (
    BadToken,
    ConfigError,
    Conflict,
    Denied,
    KdhtError,
    NotFound,
    PartMissing,
    PortClosed,
    RequestError,
    RequestTimeout,
    Unconfirmed,
    ValueTooLarge,
)

JSON = "application/json"
PROBLEM = "application/problem+json"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"
# A cache may keep a value, but has to ask whether its version still stands.
REVALIDATE = ("Cache-Control", "no-cache")
NO_STORE = ("Cache-Control", "no-store")
SOON = ("Retry-After", "1")
CHALLENGE = ("WWW-Authenticate", 'Bearer realm="kdht"')

Headers = tuple[tuple[str, str], ...]


class Answer(NamedTuple):
    """`rest`: a stream of the bytes behind `body`, `length` bytes with it, or without a known end for None."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    rest: AsyncGenerator[bytes, None] | None = None
    length: int | None = None


class Refused(Exception):
    """A request that gets this answer."""

    def __init__(self, answer: Answer, reason: str) -> None:
        super().__init__(reason)
        self.answer = answer
        self.reason = reason
        """Its counter."""


def encoded(content: Any) -> bytes:
    """JSON, with a line's end for terminals."""
    return msgspec.json.encode(content) + b"\n"


def of_json(content: Any, status: int = 200, headers: Headers = (NO_STORE,)) -> Answer:
    return Answer(status, (("Content-Type", JSON), *headers), encoded(content))


def problem(status: int, code: str, detail: str, headers: Headers = (), **more: str) -> Answer:
    """`detail`: what is wrong and what to do, in a sentence."""
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}
    return Answer(status, (("Content-Type", PROBLEM), NO_STORE, *headers), encoded({**content, **more}))


def refused(status: int, code: str, detail: str, headers: Headers = (), **more: str) -> Refused:
    return Refused(problem(status, code, detail, headers, **more), code)


_OF_STATUS: Mapping[str | None, tuple[int, str]] = {
    "BUSY": (503, "busy"),
    "TOO_FEW": (503, "too_few_nodes"),
    "FULL": (507, "full"),
    "STORAGE_FAILED": (502, "storage_failed"),
}
"""By a RequestError's status."""

# The first that fits: kinds before the kinds that they derive from.
_OF_KIND: tuple[tuple[type[KdhtError], int, str], ...] = (
    (BadToken, 401, "bad_token"),
    (NotFound, 404, "not_found"),
    (Conflict, 412, "conflict"),
    (ValueTooLarge, 413, "too_large"),
    (PartMissing, 503, "replaced_meanwhile"),
    (PortClosed, 502, "no_node"),
    (RequestTimeout, 504, "timeout"),
    (Unconfirmed, 504, "unconfirmed"),
    (RequestError, 502, "request_failed"),
    (ConfigError, 502, "no_node"),
)
_PERHAPS = frozenset({"timeout", "unconfirmed", "no_node"})


def of_error(error: KdhtError, *, has_token: bool, is_write: bool) -> Answer:
    """The problem that an error of the client is."""
    status, code = _kind(error, has_token=has_token)
    headers: Headers = (SOON,) if status == 503 else ()
    if status == 401:
        headers = (CHALLENGE,)
    more = {"done": "perhaps" if code in _PERHAPS else "no"} if is_write and status != 404 else {}
    if isinstance(error, Conflict):
        more["version"] = str(error.version)
    return problem(status, code, str(error), headers, **more)


def _kind(error: KdhtError, *, has_token: bool) -> tuple[int, str]:
    if isinstance(error, Denied):
        return (403, "denied") if has_token else (401, "token_needed")
    if isinstance(error, RequestError) and error.status in _OF_STATUS:
        return _OF_STATUS[error.status]
    return next(
        ((status, code) for kind, status, code in _OF_KIND if isinstance(error, kind)), (500, "other")
    )
