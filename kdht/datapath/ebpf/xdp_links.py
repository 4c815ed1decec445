"""How the XDP program is attached: its pinned links, and the BPF file system that holds them.

Everything of one node lies in one directory of the BPF file system:
    kdht-NODE/maps-LAYOUT/MAP   the maps; another LAYOUT is another directory
    kdht-NODE/link-INTERFACE    a pinned link keeps the program attached without any process
All errors are DatapathErrors that say what to do.
"""

import errno
import os
import shutil
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kdht.datapath.host import children, netlink
from kdht.datapath.host.netlink import XdpState
from kdht.errors import DatapathError

BPFFS = Path("/sys/fs/bpf")
LINK_PREFIX = "link-"
FOREIGN = {errno.EBUSY, errno.EEXIST}
"""The kernel's errors if another program is attached already."""

Mode = Literal["native", "generic"]


class Link(NamedTuple):
    """The program on one interface."""

    interface: str
    ifindex: int
    fd: int
    mode: Mode
    adopted: bool
    """It was attached before this daemon started, and has routed since."""


def libbpf() -> Any:
    """The extension module that uses libbpf. Raises DatapathError if it was not built."""
    try:
        from kdht.datapath.ebpf import _ebpf
    except ImportError as error:
        raise DatapathError(
            f"kdht was built without eBPF ({error}): install clang and libbpf "
            "(Debian: apt-get install clang libbpf-dev) and install kdht again"
        ) from None
    return _ebpf


def is_bpffs(path: Path, mounts: str) -> bool:
    """Whether a BPF file system is visible at `path`, by the kernel's list of mounts."""
    fields = (line.split()[1:3] for line in mounts.splitlines())
    # The last mount on the way to `path` counts. It may hide earlier ones, as a container's own /sys does.
    covering = [(place, kind) for place, kind in fields if path.is_relative_to(place)]
    return covering[-1:] == [(str(path), "bpf")]


def need_bpffs(path: Path = BPFFS) -> None:
    """Mount the BPF file system if it is not there. Raises DatapathError."""
    if is_bpffs(path, Path("/proc/thread-self/mounts").read_text()):
        return
    done = children.ran(["mount", "-t", "bpf", "bpf", str(path)])
    if done.returncode != 0:
        raise DatapathError(
            f"no BPF file system at {path}: mount it as root: mount -t bpf bpf {path} ({done.stderr.strip()})"
        )


def make_own(pins: Path) -> None:
    """Make a node's directory, or take an earlier daemon's. Raises DatapathError.

    Maps in a directory of another user would be that user's to write: the program would route by them.
    """
    try:
        pins.mkdir(mode=0o700, exist_ok=True)
        found = pins.lstat()
    except OSError as error:
        raise DatapathError(f"cannot make {pins}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise DatapathError(f"{pins} is no directory of this user alone (mode 700): remove it")


def attach(program_fd: int, interface: str, pins: Path) -> Link:
    """Attach the program, or put it behind the pinned link if there is one. Raises DatapathError."""
    bpf = libbpf()
    ifindex = _ifindex(interface)
    pinned = pins / f"{LINK_PREFIX}{interface}"
    # Replaced behind the link: no packet is without a program in between.
    if (fd := _adoptable(pinned, ifindex)) is not None:
        bpf.replace(fd, program_fd)
        mode: Mode = "generic" if netlink.xdp_of(interface).mode == "generic" else "native"
        return Link(interface, ifindex, fd, mode, adopted=True)
    fd, mode = _attach_anew(program_fd, interface, ifindex)
    try:
        bpf.pin(fd, str(pinned))
    except bpf.BpfError as error:
        os.close(fd)
        raise DatapathError(f"cannot pin the XDP program's link: {error.strerror}") from error
    return Link(interface, ifindex, fd, mode, adopted=False)


def holds(link: Link, program: int) -> bool:
    """Whether the link is attached to its interface still, with the program of this number. Raises BpfError."""
    info = libbpf().link_info(link.fd)
    return bool(info["ifindex"] == link.ifindex and info["program"] == program)


def attach_again(link: Link, program_fd: int, pins: Path) -> Link:
    """A link in place of one that no longer holds. Raises DatapathError, also while there is no such interface."""
    made = attach(program_fd, link.interface, pins)
    os.close(link.fd)
    return made


def detach(pinned: Path) -> None:
    """Detach the program behind a pinned link from its interface and remove the pin. Never raises."""
    bpf = libbpf()
    with suppress(bpf.BpfError):  # the interface is gone, or somebody detached it
        fd = bpf.open_pinned(str(pinned))
        try:
            bpf.detach(fd)
        finally:
            os.close(fd)
    pinned.unlink(missing_ok=True)


def pinned_links(pins: Path) -> dict[str, Path]:
    """The pinned links by their interface."""
    return {path.name.removeprefix(LINK_PREFIX): path for path in pins.glob(f"{LINK_PREFIX}*")}


def native_before(pins: Path) -> set[str]:
    """The interfaces where a program that an earlier daemon left runs in native mode."""
    native = set()
    for name in pinned_links(pins):
        with suppress(DatapathError):  # the interface is gone
            if netlink.xdp_of(name).mode == "native":
                native.add(name)
    return native


def remove_pins(pins: Path) -> None:
    """Detach all links and remove the node's directory. Missing ones are no error."""
    for pinned in pinned_links(pins).values():
        detach(pinned)
    shutil.rmtree(pins, ignore_errors=True)


def _adoptable(pinned: Path, ifindex: int) -> int | None:
    """The pinned link, if it is still attached to this interface. If not, it is removed."""
    bpf = libbpf()
    if not pinned.exists():
        return None
    with suppress(bpf.BpfError):
        fd: int = bpf.open_pinned(str(pinned))
        # An interface of this name may be another one by now.
        if bpf.link_info(fd)["ifindex"] == ifindex:
            return fd
        os.close(fd)
    detach(pinned)
    return None


def _attach_anew(program_fd: int, interface: str, ifindex: int) -> tuple[int, Mode]:
    bpf = libbpf()
    # Programs of others stay: this is an error that names it.
    if (found := netlink.xdp_of(interface)).program:
        raise _occupied(interface, found)
    modes: tuple[Mode, ...] = ("native", "generic")
    for mode in modes:
        try:
            return bpf.attach(program_fd, ifindex, mode == "native"), mode
        except bpf.BpfError as error:
            if error.errno in FOREIGN:
                raise _occupied(interface, netlink.xdp_of(interface)) from error
            if mode == "generic" or error.errno == errno.EPERM:
                raise DatapathError(
                    f"cannot attach the XDP program to {interface}: {error.strerror}"
                ) from error
    raise AssertionError("unreachable")


def _occupied(interface: str, found: XdpState) -> DatapathError:
    bpf = libbpf()
    name = ""
    # The error goes without the program's name if it ended meanwhile.
    with suppress(bpf.BpfError):
        name = f" ({bpf.program_name(found.program)})" if found.program else ""
    return DatapathError(
        f"{interface} has another XDP program already, number {found.program}{name}: take it off, "
        "name other interfaces in datapath.interfaces, or choose another datapath"
    )


def _ifindex(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise DatapathError(f"there is no interface {interface}: correct datapath.interfaces") from None
