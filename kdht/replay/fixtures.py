"""Fixtures: a capture, a table, and the verdicts expected, in a text file to be reviewed.

A directory with capture.pcap (or .pcapng), table.json (or .toml) and verdicts.txt, which has
one line a packet: number, verdict, reason, target, a digest of the forwarded packet, and a
remark on the packet after a '#'. `updated` writes the lines anew and keeps the remarks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from kdht.errors import ConfigError
from kdht.remedies import about_file
from kdht.replay._engine import Judgement
from kdht.replay.base import Implementation
from kdht.replay.capture import Capture
from kdht.replay.packets import take_apart
from kdht.wire._shared import VERDICT_OF, Reason, Verdict

VERDICTS = "verdicts.txt"
HEADER = """\
# kdht-replay check: the verdicts expected of the packets in the capture beside this file.
# number  verdict  reason  from > to, and a digest of the packet that goes on; or the largest reply  # remark
"""
_LINE = re.compile(r"^(\d+) +(\S.*?)(?: +# (.*))?$")
_CAPTURES = ("capture.pcap", "capture.pcapng", "capture.pcap.gz", "capture.pcapng.gz")
_TABLES = ("table.json", "table.toml")
_ANSWERED = (Reason.OWNER, Reason.ATTEMPT_ENDS, Reason.TRACE_ENDS)


class Expectation(NamedTuple):
    """One line."""

    verdict: str
    remark: str = ""


class WrongVerdict(NamedTuple):
    """A packet with an unexpected verdict."""

    number: int
    expected: str
    found: str
    remark: str


class Fixture:
    """One fixture's files. Raises ConfigError if one is missing."""

    def __init__(self, directory: Path) -> None:
        self.name = directory.name
        self.capture = _one_of(directory, _CAPTURES)
        self.table = _one_of(directory, _TABLES)
        self.verdicts = directory / VERDICTS

    def expected(self) -> dict[int, Expectation]:
        """The lines of verdicts.txt, by packet. Raises ConfigError for an unreadable line."""
        try:
            lines = self.verdicts.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(about_file(self.verdicts, error, "make it with check --update")) from None
        except UnicodeDecodeError:
            raise ConfigError(f"{self.verdicts}: not UTF-8 text") from None
        found = {}
        for place, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.match(line.strip())
            if not match:
                raise ConfigError(f"{self.verdicts}: line {place}: expected a number, a verdict and a reason")
            found[int(match[1])] = Expectation(" ".join(match[2].split()), match[3] or "")
        return found

    def update(self, verdicts: Mapping[int, str], remarks: Mapping[int, str]) -> None:
        """Write verdicts.txt."""
        self.verdicts.write_text(rendered(verdicts, remarks), encoding="utf-8")


def rendered(verdicts: Mapping[int, str], remarks: Mapping[int, str]) -> str:
    """The content of a verdicts.txt."""
    width = max((len(text) for text in verdicts.values()), default=0)
    lines = []
    for number, text in verdicts.items():
        remark = remarks.get(number, "")
        lines.append(f"{number:>6}  {text:<{width}}  # {remark}" if remark else f"{number:>6}  {text}")
    return HEADER + "".join(f"{line.rstrip()}\n" for line in lines)


def found_in(directory: Path) -> list[Fixture]:
    """The fixture in a directory, or those in the directories in it. Raises ConfigError without any."""
    if not directory.is_dir():
        raise ConfigError(f"{directory}: not a directory: name one that holds fixtures")
    if any((directory / name).exists() for name in _CAPTURES):
        return [Fixture(directory)]
    homes = sorted({path.parent for name in _CAPTURES for path in directory.rglob(name)})
    if not homes:
        raise ConfigError(f"{directory}: holds no fixture: a directory with {_CAPTURES[0]} and {_TABLES[0]}")
    return [Fixture(home) for home in homes]


def _one_of(directory: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise ConfigError(f"{directory}: a fixture has a {names[0]}, this one has none")


def line(judgement: Judgement) -> str:
    """The line of verdicts.txt for a packet."""
    reason = judgement.reason
    if reason is None:
        return "NOT RUN"
    verdict = VERDICT_OF[reason]
    parts = [verdict.name, reason.name]
    if verdict in (Verdict.FORWARD, Verdict.RELAY):
        datagram = take_apart(judgement.data)
        parts.append(f"{datagram.source} > {datagram.target}" if datagram else "?")
        parts.append(blake2b(judgement.data, digest_size=8).hexdigest())
    elif reason in _ANSWERED and judgement.max_reply is not None:
        parts.append(f"reply {judgement.max_reply}")
    return " ".join(parts)


def verdicts_of(
    fixture: Fixture, implementation: Implementation, now: int | None
) -> Iterator[tuple[int, str]]:
    """The number and the line of every packet. Raises CaptureError."""
    with Capture(fixture.capture) as capture:
        for batch in capture:
            results = implementation.run(batch, now).results
            for index in range(len(batch)):
                yield batch.first + index, line(results.get(index))


def mismatches(expected: Mapping[int, Expectation], found: Mapping[int, str]) -> Iterator[WrongVerdict]:
    """Every packet with another line, a missing one, or one too many."""
    for number in sorted({*expected, *found}):
        wanted = expected.get(number, Expectation("no such packet"))
        got = found.get(number, "no such packet")
        if not _agree(wanted.verdict, got):
            yield WrongVerdict(number, wanted.verdict, got, wanted.remark)


def _agree(expected: str, found: str) -> bool:
    """The XDP program does not report the largest reply. That is no mismatch."""
    return found in (expected, re.sub(r" reply \d+$", "", expected))
