"""The host's part: ports, queues, file limits, time synchronisation."""

import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from kdht.cli.doctor.findings import Check, Finding, Subject
from kdht.daemon.check import try_bind
from kdht.datapath.host import ruleset
from kdht.datapath.nfqueue.datapath import bound_queues
from kdht.errors import DatapathError, MissingLibrary
from kdht.wire.sodium import library

LEAST_FILES = 1024
"""LevelDB's tables, control connections, sockets and queues, with room."""
UNSYNCHRONISED = 5
"""TIME_ERROR of adjtimex(2)."""
TIMEX_BYTES = 256
"""More than struct timex has."""


def ports(subject: Subject) -> Iterator[Finding]:
    """Whether this node has its port, or could have it."""
    if subject.status is not None:
        dropped = _dropped(subject.port or 0)
        if dropped:
            yield Finding("port", "warning", f"the socket's buffer was full for {dropped:,} packets",
                          "sysctl -w net.core.rmem_max=8388608, and restart kdhtd; or a faster datapath")  # fmt: skip
        else:
            yield Finding(
                "port", "ok", f"the daemon has UDP port {subject.port}; no packet found its buffer full"
            )
        return
    if subject.settings is None:
        return
    for address in subject.settings.listen:
        try:
            try_bind(address, freebind=subject.settings.config.node.freebind)
        except DatapathError as error:
            yield Finding("port", "failure", f"{error}{_holder(address.port)}",
                          f"ss -ulpn 'sport = :{address.port}' says who has it; or choose another port")  # fmt: skip
        else:
            yield Finding("port", "ok", f"{address} is free")


def queue_numbers(subject: Subject) -> Iterator[Finding]:
    """Whether others use our queues or table while no daemon runs."""
    if subject.settings is None or subject.status is not None or subject.kind not in ("auto", "nfqueue"):
        return
    datapath = subject.settings.config.datapath
    taken = set(bound_queues()) & set(range(datapath.first_queue, datapath.first_queue + datapath.queues))
    for number in sorted(taken):
        yield Finding(
            "queue",
            "failure",
            f"another program has NFQUEUE number {number}",
            "choose another datapath.first_queue",
        )
    if subject.is_root and _has_table(datapath.table):
        yield Finding("nft", "warning", f"table inet {datapath.table} is loaded, and no daemon runs",
                      "kdhtctl nft remove; the next start replaces it")  # fmt: skip


def files(subject: Subject) -> Iterator[Finding]:
    """How many a daemon may open."""
    limit = _limit(subject.status.pid) if subject.status else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit is None:
        return
    if limit < LEAST_FILES:
        yield Finding(
            "files",
            "warning",
            f"a daemon may open {limit} files",
            f"LimitNOFILE={LEAST_FILES} in its unit, or ulimit -n {LEAST_FILES}",
        )
    else:
        yield Finding("files", "ok", f"a daemon may open {limit:,} files")


def time_keeping(subject: Subject) -> Iterator[Finding]:
    """Whether somebody keeps the clock right, as the kernel was told."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    if state == UNSYNCHRONISED:
        yield Finding("clock", "warning", "nobody says that this host's clock is synchronised",
                      "timedatectl set-ntp true, or apt-get install chrony")  # fmt: skip
    elif state >= 0:
        yield Finding("clock", "ok", "the kernel's clock is synchronised")


def _limit(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        # The process has ended, or is another user's.
        return None
    words = next((line.split() for line in lines if line.startswith("Max open files")), [])
    return int(words[3]) if len(words) > 3 and words[3].isdigit() else None


def _udp_lines() -> Iterator[list[str]]:
    """The fields of each UDP socket: proc(5)."""
    for name in ("udp", "udp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            # Without IPv6 there is no udp6.
            continue
        yield from (line.split() for line in lines)


def _dropped(port: int) -> int:
    return sum(int(fields[-1]) for fields in _udp_lines() if int(fields[1].rpartition(":")[2], 16) == port)


def _holder(port: int) -> str:
    """The port's owner, as far as this user may see."""
    inodes = {fields[9] for fields in _udp_lines() if int(fields[1].rpartition(":")[2], 16) == port}
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in links for fd in (process / "fd").iterdir()):
                return f": process {process.name} ({(process / 'comm').read_text().strip()}) has it"
        except OSError:
            # It ended meanwhile, or its files are another user's.
            continue
    return ""


def _has_table(name: str) -> bool:
    try:
        ruleset.run_nft("nft", ["list", "table", "inet", name])
    except DatapathError:
        return False
    return True


def signatures(subject: Subject) -> Iterator[Finding]:
    """Whether this node can check signed records."""
    try:
        library()
    except MissingLibrary:
        yield Finding("signatures", "warning", "built without libsodium: signed records are refused",
                      "apt-get install libsodium-dev, and install kdht again")  # fmt: skip
    else:
        yield Finding("signatures", "ok", "built with libsodium")


CHECKS: tuple[Check, ...] = (ports, queue_numbers, files, time_keeping, signatures)
