"""Finds the rule of this host that drops our packets: nftables traces the packets that our table has marked for it.

`nft monitor trace` tells each rule that a traced packet meets. It sees iptables' rules too, unless they are those of the
legacy kind.

Contract: `look` never blocks. Any thread, one at a time.
"""

import os
import re
import subprocess
from contextlib import suppress

from kdht.datapath.host import children

DROPPED = re.compile(
    r"trace id \w+ (?P<family>\w+) (?P<table>\S+) (?P<chain>\S+) "
    r"(?:rule (?P<rule>.*) \(verdict drop\)|policy drop)"
)
MARKED = re.compile(
    r"trace id \w+ (?P<family>\w+) (?P<table>\S+) (?P<chain>\S+) rule (?P<rule>.*mark set .*) \(verdict continue\)"
)
# A reader that lags behind a flood must not collect it all.
MOST_BYTES = 1 << 16
"""Of an unfinished line."""


class RuleTrace:
    """The rules that drop. `own`: our table, whose guard drops packets without our mark."""

    def __init__(self, nft: str, own: str) -> None:
        self._nft = nft
        self._own = own
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._marked = ""
        """The last rule that set a mark."""

    def look(self) -> str:
        """The last rule that dropped one of our packets, in words; nothing if none has been seen. Starts tracing.

        Raises DatapathError.
        """
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = children.started(
                [self._nft, "monitor", "trace"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
        found = ""
        for line in self._lines():
            # The last one counts: an earlier rule may have been corrected meanwhile.
            found = self._told(line) or found
        return found

    def end(self) -> None:
        """Trace no more. May be called again."""
        process, self._process, self._rest = self._process, None, b""
        if process is not None:
            process.terminate()
            process.communicate()

    def _lines(self) -> list[str]:
        assert self._process is not None
        assert self._process.stdout is not None
        # It has said nothing more so far.
        with suppress(BlockingIOError):
            self._rest += os.read(self._process.stdout.fileno(), MOST_BYTES)
        *lines, self._rest = self._rest[-MOST_BYTES:].split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def _told(self, line: str) -> str:
        if (marked := MARKED.search(line)) is not None:
            place = f"{marked['family']} {marked['table']} {marked['chain']}"
            self._marked = f" (a rule of chain {place}: {marked['rule'].strip()})"
        found = DROPPED.search(line)
        if found is None:
            return ""
        if (found["family"], found["table"]) == ("inet", self._own):
            # Our guard knows our packets by their mark.
            return f"another program takes their mark off, so our guard drops them{self._marked}"
        place = f"{found['family']} {found['table']} {found['chain']}"
        if found["rule"] is None:
            return f"the policy of chain {place} drops them"
        return f"a rule of chain {place} drops them: {found['rule'].strip()}"
