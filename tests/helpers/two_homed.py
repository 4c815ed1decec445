"""A host with two networks, between a host on each.

left eth1 10.31.0.2, fd31::2 --- eth1 node eth2 --- eth2 right 10.32.0.2, fd32::2
                        10.31.0.1, fd31::1   10.32.0.1, fd32::1
"""

from kdht.lab.netns import Host, Lab

LEFT, RIGHT = {4: "10.31.0.2", 6: "fd31::2"}, {4: "10.32.0.2", 6: "fd32::2"}
NODE = {4: ("10.31.0.1", "10.32.0.1"), 6: ("fd31::1", "fd32::1")}


def two_homed(lab: Lab) -> dict[str, Host]:
    """The three hosts by name, with routes through the one in the middle."""
    hosts = {name: lab.host(name) for name in ("left", "node", "right")}
    left, node, right = hosts.values()
    lab.link(left, node, "eth1", addresses={
        "left": ["10.31.0.2/24", "fd31::2/64"], "node": ["10.31.0.1/24", "fd31::1/64"]})  # fmt: skip
    lab.link(right, node, "eth2", addresses={
        "right": ["10.32.0.2/24", "fd32::2/64"], "node": ["10.32.0.1/24", "fd32::1/64"]})  # fmt: skip
    for host, index in ((left, 0), (right, 1)):
        for family in (4, 6):
            host.run(["ip", f"-{family}", "route", "add", "default", "via", NODE[family][index]])
    return hosts
