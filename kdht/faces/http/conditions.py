"""Conditional and range requests (RFC 9110, sections 13 and 14). No I/O and no clock.

An entity tag is a version in quotes. Untrusted header values become a value here, or Refused.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from kdht.faces.http.answers import refused
from kdht.wire.limits import MAX_VERSION

_TAG = re.compile(r'(W/)?"([^"]*)"')
_NUMBER = re.compile(r"[1-9][0-9]{0,19}")
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,20})-(\d{0,20})[ \t]*", re.IGNORECASE)
# Each is compared. A cache knows a few versions of a value, not hundreds.
MAX_TAGS = 64


def etag(version: int) -> str:
    return f'"{version}"'


class Tags(NamedTuple):
    """The tags of If-Match or If-None-Match; those that are no version match nothing."""

    any: bool
    """It is `*`."""
    strong: frozenset[int] = frozenset()
    weak: frozenset[int] = frozenset()


class Conditions(NamedTuple):
    """None: the header is not there."""

    match: Tags | None = None
    none_match: Tags | None = None

    @property
    def is_empty(self) -> bool:
        return self.match is None and self.none_match is None

    @property
    def version(self) -> int | None:
        """The one version that the key has to have, 0 for no record; None if that is not all that is asked."""
        if self.match and not self.none_match and not self.match.any and len(self.match.strong) == 1:
            return next(iter(self.match.strong))
        return 0 if self.none_match and self.none_match.any and not self.match else None

    def holds(self, version: int) -> bool:
        """Whether a write may be done while the key has this version, 0 for no record."""
        if self.match and not (version and (self.match.any or version in self.match.strong)):
            return False
        return not (self.none_match and version and self.has(version))

    def has(self, version: int) -> bool:
        """Whether If-None-Match names this version."""
        tags = self.none_match
        return tags is not None and (tags.any or version in tags.strong or version in tags.weak)


def conditions_of(headers: Mapping[str, str]) -> Conditions:
    """Raises Refused for headers that cannot be read: a condition must not be passed over."""
    return Conditions(_tags(headers, "if-match"), _tags(headers, "if-none-match"))


def _tags(headers: Mapping[str, str], name: str) -> Tags | None:
    text = headers.get(name)
    if text is None:
        return None
    if text.strip() == "*":
        return Tags(any=True)
    found = _TAG.findall(text)
    # In two linear steps: one expression for the whole list would take quadratic time for a hostile one.
    if not 1 <= len(found) <= MAX_TAGS or _TAG.sub("", text).strip(", \t"):
        raise refused(400, "bad_condition", f'{name} is * or a list of versions in quotes, as in "17"')
    weak, strong = (
        frozenset(int(tag) for mark, tag in found if bool(mark) is is_weak and _is_version(tag))
        for is_weak in (True, False)
    )
    return Tags(any=False, strong=strong, weak=weak)


def _is_version(tag: str) -> bool:
    return bool(_NUMBER.fullmatch(tag)) and int(tag) <= MAX_VERSION


class Part(NamedTuple):
    """Bytes from `begin` up to `end`, not included."""

    begin: int
    end: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.begin}-{self.end - 1}/{size}"


def part_of(headers: Mapping[str, str], version: int, size: int) -> Part | None:
    """The part that a GET asks for; None: all. Raises Refused (416) for one that is not there.

    As the RFC says, a Range that cannot be read is ignored, and one of an older version. Several ranges are ignored, too.
    """
    found = _RANGE.fullmatch(headers.get("range", ""))
    if found is None or headers.get("if-range", etag(version)) != etag(version):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        part = Part(max(size - int(last), 0), size)
    else:
        part = Part(int(first), min(int(last) + 1, size) if last else size)
        if last and int(last) < int(first):
            return None
    if part.begin >= part.end:
        raise refused(
            416, "bad_range", f"the value has {size} bytes", (("Content-Range", f"bytes */{size}"),)
        )
    return part
