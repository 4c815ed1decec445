"""Which addresses may send requests: the operator's lists, and the table of prefixes made of them.

An address may read if `allowed` is empty or has it, and `refused` has not. It may write if it may read, and the same
holds for `write_allowed` and `write_refused`. IPv4 and IPv6 never meet: 0.0.0.0/0 is no part of ::/0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from kdht.wire import Address
from kdht.wire._shared import MAY_READ, MAY_WRITE

Network = IPv4Network | IPv6Network
EVERYBODY: tuple[Network, Network] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
IPV4_BITS = 96
"""How much longer an IPv4 prefix is as one of an IPv4-mapped address."""


@dataclass(frozen=True, slots=True)
class Senders:
    """The lists of [access]."""

    allowed: tuple[Network, ...] = ()
    refused: tuple[Network, ...] = ()
    write_allowed: tuple[Network, ...] = ()
    write_refused: tuple[Network, ...] = ()

    def prefixes(self) -> list[tuple[bytes, int, int]] | None:
        """As Core.configure takes them: the longest prefix of an address says its rights. None: no lists."""
        listed = (*self.allowed, *self.refused, *self.write_allowed, *self.write_refused)
        # No table, so that datapaths need not look at one.
        if not listed:
            return None
        return [
            # Everybody's prefix too: with it each address is under some prefix, and the look-up always has an
            # answer.
            (*_mapped(network), self._rights(network))
            for network in dict.fromkeys((*EVERYBODY, *listed))
        ]

    def changes_to_admit(self, host: Network, *, writes: bool) -> list[str]:
        """What the operator has to change, so that this one address may read, or else `writes`. Empty: it may already."""
        allowed, refused, prefix = (
            (self.write_allowed, self.write_refused, "write_") if writes else (self.allowed, self.refused, "")
        )
        changes = []
        if allowed and not is_in(host, allowed):
            changes.append(f'add "{host.network_address}" to access.{prefix}from')
        if in_the_way := [str(network) for network in refused if is_in(host, [network])]:
            changes.append(f"take {', '.join(in_the_way)} out of access.{prefix}not_from")
        return changes

    def _rights(self, network: Network) -> int:
        """Of the addresses in the network that are in no smaller listed one."""
        if not _passes(network, self.allowed, self.refused):
            return 0
        # Who may not read may not write either: a write's answer tells whether a record is there.
        return MAY_READ | (MAY_WRITE if _passes(network, self.write_allowed, self.write_refused) else 0)


NOBODY_REFUSED = Senders()


def _passes(network: Network, allowed: Sequence[Network], refused: Sequence[Network]) -> bool:
    return (not allowed or is_in(network, allowed)) and not is_in(network, refused)


def is_in(network: Network, others: Sequence[Network]) -> bool:
    """Whether one of the others holds all of the network."""
    return any(
        other.version == network.version
        and other.prefixlen <= network.prefixlen
        and network.network_address in other
        for other in others
    )


def _mapped(network: Network) -> tuple[bytes, int]:
    ip = Address.of(str(network.network_address), 0).ip
    return ip, network.prefixlen + (IPV4_BITS if network.version == 4 else 0)
