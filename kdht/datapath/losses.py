"""What is known of the packets that a fast path loses: for its status, and a line in the log when it changes.

Contract: one thread; no I/O but the log.
"""

import logging

log = logging.getLogger(__name__)

UNKNOWN = "no rule of nftables drops them: look at ip rule, ip route, rp_filter, and the network"


class LossLog:
    """Of one datapath."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loses = False
        self._reason = ""
        self._told = ""
        """The reason in the log's last line."""

    def suspect(self, is_so: bool, reason: str = "") -> None:
        """Whether packets seem to get lost, for this reason if it is known."""
        self._reason = (reason or self._reason) if is_so else ""

    def look(self, reason: str) -> str:
        """Packets get lost, for this reason if it is known. Returns the sentence for the status."""
        self._reason = reason or self._reason
        if not self._loses or self._reason != self._told:
            log.warning(
                "the %s datapath loses packets, so the socket treats them: %s",
                self._name,
                self._reason or "looking for the reason",
            )
        self._loses, self._told = True, self._reason
        return f"packets get lost, so the socket treats them: {self._reason or UNKNOWN}"

    def found_again(self) -> str:
        """Packets arrive again. Returns nothing."""
        if self._loses:
            log.info("the %s datapath treats packets again", self._name)
        self._loses = False
        return ""
