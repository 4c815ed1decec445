"""The hosts on a lab's bridge know each other's link addresses in advance, for good.

The kernel has one table of neighbours for all namespaces: 32 hosts that ask for each other overflow its
usual 1,024 entries (`net.ipv4.neigh.default.gc_thresh3`), and then datagrams are lost for seconds. Permanent
entries do not count.
"""

from ipaddress import ip_interface

from pyroute2 import IPRoute

from kdht.lab.netns import Host, Lab

INTERFACE = "eth0"
_PERMANENT = 0x80  # NUD_PERMANENT


def introduce(lab: Lab) -> None:
    """Introduce all present hosts to all others."""
    hosts = [host for host in lab.hosts.values() if host is not lab.bridge]
    known = {host.name: _place(host) for host in hosts}
    for host in hosts:
        with host.enter(), IPRoute() as ip:
            index = ip.link_lookup(ifname=INTERFACE)[0]
            for name, (link, addresses) in known.items():
                for address in addresses if name != host.name else ():
                    ip.neigh("replace", dst=address, lladdr=link, ifindex=index, state=_PERMANENT)


def _place(host: Host) -> tuple[str, list[str]]:
    """The host's link address and its IP addresses."""
    with host.enter(), IPRoute() as ip:
        index = ip.link_lookup(ifname=INTERFACE)[0]
        link = str(ip.get_links(index)[0].get("address"))
    return link, [str(ip_interface(text).ip) for text in host.addresses(INTERFACE)]
