"""The networks that the XDP program takes frames from: interfaces, and VLANs of them.

The program sees a frame before the kernel does, so it must know the kernel's own address in each of them.
All errors are DatapathErrors that say what to do.
"""

import fcntl
import socket
import struct
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from kdht.datapath.host.netlink import Vlan
from kdht.errors import DatapathError

MAX_NETWORKS = 32
"""KDHT_MAX_LINKS in bpf/kdht_xdp.h."""
_INTERFACES = Path("/sys/class/net")
_SIOCGIFHWADDR = 0x8927
_IFREQ = struct.Struct("16s2x6s16x")


class Network(NamedTuple):
    """One of them: struct kdht_link in bpf/kdht_xdp.h."""

    ifindex: int
    """The interface where its frames come in."""
    device: int
    """The VLAN's own interface; without a VLAN the same."""
    vlan: int | None
    mac: bytes
    """The address of `device`."""
    generic: bool
    """The program runs in generic mode there, or perhaps does."""


def networks_of(chosen: Sequence[str], vlans: Sequence[Vlan], native: Collection[str]) -> list[Network]:
    """The networks of the chosen interfaces. A VLAN's frames come in at the interface below it.

    `native`: the interfaces where the program is known to run in native mode.
    """
    found = []
    by_name = {vlan.name: vlan for vlan in vlans}
    for name in chosen:
        index, mac, vlan = _index_of(name), mac_of(name), by_name.get(name)
        lower = vlan.lower if vlan else name
        number = vlan.number if vlan else None
        # In native mode a bond's frames come in at its ports.
        places = (lower, *ports_of(lower))
        found += [Network(_index_of(each), index, number, mac, lower not in native) for each in places]
    if len(found) > MAX_NETWORKS:
        raise DatapathError(f"the ebpf datapath takes at most {MAX_NETWORKS} interfaces, not {len(found)}")
    return found


def ports_of(interface: str) -> list[str]:
    """The interfaces that a bond is made of. None for any other interface."""
    try:
        return (_INTERFACES / interface / "bonding/slaves").read_text().split()
    except OSError:
        return []


def mac_of(interface: str) -> bytes:
    """The 6 bytes of an interface's Ethernet address, in the caller's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFHWADDR, _IFREQ.pack(interface.encode(), b""))
        except OSError as error:
            raise DatapathError(f"cannot read the address of {interface}: {error.strerror}") from error
    mac: bytes = _IFREQ.unpack(answer)[1]
    return mac


def _index_of(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise DatapathError(f"there is no interface {name}: correct datapath.interfaces") from None
