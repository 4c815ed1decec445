"""The interfaces: their use, their MTU, foreign XDP programs; the sysctls for forwarding."""

from collections.abc import Iterator
from pathlib import Path

from kdht.cli.doctor.findings import Check, Finding, State, Subject
from kdht.datapath.host import netlink
from kdht.datapath.host.links import LEAST_MTU
from kdht.datapath.host.sysctl import Sysctls
from kdht.errors import DatapathError

MOST_XDP_MTU = 3498
"""Of a driver's native XDP with frames of one page: what most of them allow at least."""


def interfaces(subject: Subject) -> Iterator[Finding]:
    """Which they are, and whether a message fits."""
    if not subject.own:
        return
    if not subject.interfaces:
        state: State = "ok" if subject.kind in ("socket", "auto") else "failure"
        yield Finding("interface", state, "no interface but lo has an own address: the socket treats all packets",
                      "" if state == "ok" else "set an address on an interface, or name it in datapath.interfaces")  # fmt: skip
    for name in subject.interfaces:
        mtu = netlink.mtu_of(name)
        if mtu is None:
            yield Finding("interface", "failure", f"there is no {name}", "correct datapath.interfaces")
        elif mtu < LEAST_MTU:
            yield Finding("MTU", "failure", f"{name} carries {mtu} bytes: messages need {LEAST_MTU}",
                          f"ip link set {name} mtu 1500")  # fmt: skip
        elif mtu > MOST_XDP_MTU and subject.kind == "ebpf":
            yield Finding("MTU", "warning", f"{name} carries {mtu} bytes: more than native XDP may allow",
                          f"ip link set {name} mtu 1500")  # fmt: skip
        else:
            yield Finding("MTU", "ok", f"{name} carries {mtu} bytes, messages need {LEAST_MTU}")


def programs(subject: Subject) -> Iterator[Finding]:
    """XDP programs, ours and others'."""
    datapaths = subject.status.datapaths if subject.status else []
    ours = {path["program"] for path in datapaths if "program" in path}
    for name in subject.interfaces:
        found = netlink.xdp_of(name)
        if not found.program:
            yield Finding("XDP", "ok", f"{name} has no program; its driver is {_driver(name)}")
        elif found.program in ours:
            slow = found.mode == "generic"
            yield Finding("XDP", "warning" if slow else "ok", f"{name} has this node's program, {found.mode} mode",
                          "native mode needs a driver that has it (of each port of a bond) and an MTU of one page; until then messages "
                          "whose checksum is left to the device go to the socket" if slow else "")  # fmt: skip
        else:
            yield Finding("XDP", subject.unless_needed("ebpf"),
                          f"{name} has somebody else's program, number {found.program} ({found.mode})",
                          f"bpftool prog show id {found.program} says whose; ip link set dev {name} xdp off")  # fmt: skip


def sysctls(subject: Subject) -> Iterator[Finding]:
    """The daemon's sysctls, and whether they are still set."""
    if subject.running_kind == "socket" or not subject.interfaces:
        return
    if not subject.is_root:
        yield Finding("sysctl", "ok", "set by the daemon, which watches them")
        return
    try:
        changed = Sysctls(subject.interfaces).undone()
    except DatapathError as error:
        yield Finding("sysctl", "warning", str(error), "ask as root")
        return
    for path in changed:
        yield Finding(
            "sysctl", "failure", f"somebody changes {path} again and again", "find out who: kdhtctl status"
        )
    if not changed:
        yield Finding("sysctl", "ok", "what forwarding needs is set, and unchanged")


def _driver(interface: str) -> str:
    try:
        return Path("/sys/class/net", interface, "device/driver").resolve(strict=True).name
    except OSError:
        return "a virtual one"


CHECKS: tuple[Check, ...] = (interfaces, programs, sysctls)
