"""Service records (RFC 2782): the name _kdht._udp.example.org in node.bootstrap stands for the cluster's nodes.

Each record names a host and its port. So nodes come and go in the DNS alone, and may have ports of their own.
"""

import logging

from kdht.config.values import HostPort

log = logging.getLogger(__name__)

SERVICE = "_kdht._udp."
# Below the usual patience of a service manager. A failed look-up is tried again.
LOOKUP_S = 5.0
MOST = 64
"""Targets of one name that are asked."""


def is_service(name: HostPort) -> bool:
    return name.host.lower().startswith(SERVICE)


def targets(name: HostPort) -> list[HostPort]:
    """The nodes that the name's records have, the preferred ones first; none without an answer. Blocks.

    Weights do not matter, because a node asks all of them.
    """
    # Few nodes need it, and it is large.
    import dns.exception
    import dns.resolver

    try:
        answer = dns.resolver.resolve(name.host, "SRV", lifetime=LOOKUP_S)
    except (dns.exception.DNSException, OSError, UnicodeError) as error:
        log.debug("no service records", extra={"name": name, "error": error})
        return []
    found = []
    for record in sorted(answer, key=lambda each: (each.priority, each.target, each.port))[:MOST]:
        host = record.target.to_text(omit_final_dot=True)
        try:
            found.append(HostPort(f"{host}:{record.port}"))
        except ValueError as error:  # "." says that there is no such service
            log.debug("service record ignored", extra={"name": name, "error": error})
    return found
