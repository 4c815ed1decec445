"""Bytes in JSON, and small headers and bodies. No clock."""

import base64
from collections.abc import Mapping

from kdht.faces.http.answers import refused
from kdht.faces.http.connection import Request


def payload_members(name: str, data: bytes) -> dict[str, str | None]:
    """Members of an object: bytes as text, null if they are none, and in base64."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    return {name: text, f"{name}_base64": base64.b64encode(data).decode()}


def ttl_of(headers: Mapping[str, str], most: int) -> int | None:
    """The header TTL (RFC 8030, section 5.2), in seconds; None if it is not there. Raises Refused."""
    text = headers.get("ttl")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= most):
        raise refused(400, "bad_ttl", f"TTL is a number of seconds from 1 to {most}", done="no")
    return int(text)


async def small_body(request: Request, most: int) -> bytes:
    """The whole body. Raises Refused for more than `most` bytes."""
    parts, size = [], 0
    async for part in request.body:
        parts.append(part)
        size += len(part)
        if size > most:
            raise refused(413, "too_large", f"there is room for {most} bytes here", done="no")
    return b"".join(parts)
