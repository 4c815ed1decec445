"""What a wildcard in node.listen stands for on this host.

Other nodes learn the addresses in node.advertise. Clients may ask at any other address of the host. The answer of another
node comes back to the address that was asked, so each of them has to be the node's own too.

An advertised address has to be on this host, or to come to it (node.freebind). Behind address translation it is not: packets
to it arrive with another target, and would be taken for another node's.
"""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from kdht.config.settings import Settings
from kdht.datapath.host import local_addresses
from kdht.errors import ConfigError
from kdht.wire import Address
from kdht.wire._shared import MAX_OWN


def settled(settings: Settings) -> Settings:
    """The settings with the other addresses of this host, as many as a node may have. Raises ConfigError."""
    node = settings.config.node
    if not node.advertise:
        return settings
    here = _here(settings)
    advertised = [ip.at(settings.address.port) for ip in node.advertise]
    absent = [address.host for address in advertised if address not in here]
    if absent and not node.freebind:
        raise ConfigError(
            f"node.advertise has {', '.join(absent)}, which no interface of this host has: advertise an address of this host. "
            "A node cannot work behind address translation. For an address that comes later, set node.freebind"
        )
    return _with_others(settings, here)


def followed(settings: Settings) -> Settings:
    """The same a while later: addresses come and go, such as one that VRRP moves from host to host. Raises ConfigError."""
    return _with_others(settings, _here(settings)) if settings.config.node.advertise else settings


def _here(settings: Settings) -> list[Address]:
    try:
        return [Address.of(host, settings.address.port) for host in local_addresses.hosts()]
    except OSError as error:
        raise ConfigError(f"the addresses of this host cannot be listed: {error.strerror}") from error


def _with_others(settings: Settings, here: list[Address]) -> Settings:
    # The core's table of own addresses is small, because each packet is compared with all of them.
    room = MAX_OWN - len(settings.own)
    return replace(settings, also=tuple(_others(settings, here))[:room])


def _others(settings: Settings, here: list[Address]) -> Iterator[Address]:
    """Those that a wildcard covers and other hosts can reach, each once."""
    covered = {each.address.is_ipv4 for each in settings.config.node.listen if each.is_wildcard}
    for address in dict.fromkeys(here):
        ip = ip_address(address.host)
        if (
            address.is_ipv4 in covered
            and address not in settings.own
            and not (ip.is_loopback or ip.is_link_local)
        ):
            yield address
