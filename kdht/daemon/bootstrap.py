"""Names of other nodes to addresses: the only use of a resolver."""

import logging
import socket

from kdht.daemon.settings import Settings
from kdht.daemon.values import HostPort
from kdht.wire import Address

log = logging.getLogger(__name__)


def resolve_bootstrap(settings: Settings) -> list[Address]:
    """The addresses behind node.bootstrap that this node can reach: its families, not itself.

    A name that cannot be resolved is logged and left out: the others may do. May block.
    """
    families = {own.is_ipv4 for own in settings.unicast}
    found: dict[Address, None] = {}
    for name in settings.config.node.bootstrap:
        usable = [a for a in _lookup(name) if a.is_ipv4 in families and a not in settings.own]
        found |= dict.fromkeys(usable)
    return list(found)


def _lookup(name: HostPort) -> list[Address]:
    try:
        answers = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        log.warning("bootstrap name not resolved", extra={"name_given": str(name), "error": error})
        return []
    addresses = (answer[4] for answer in answers)
    return [Address.of(str(host[0]), int(host[1])) for host in addresses if "%" not in str(host[0])]
