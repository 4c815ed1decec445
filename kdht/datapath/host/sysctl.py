"""The sysctls that re-addressing in the packet path needs: set while a node runs, then put back.

Found by experiment in namespaces (tests/root/test_sysctl.py checks it). A packet that arrived
at interface IF and was re-addressed, so that its source is ours, goes on if and only if
  IPv4: IF.forwarding, IF.accept_local (else it is a martian), and rp_filter is not strict
        unless that source is an address of IF itself;
  IPv6: IF.force_forwarding (Linux 6.17), or else all.forwarding, which makes every interface
        a router's: then accept_ra goes from 1 to 2 so that router advertisements still count.
Without send_redirects = 0 the kernel tells us, over lo, of better routes for our own packets.
The global `ip_forward` is not touched. The new values would let strangers' packets through this host;
the ruleset stops those (`Guard` in ruleset.py).

A ledger in the runtime directory keeps the old values, from before the first write until the last node of this
network namespace stops. So the next start repairs what a crash left, and two nodes may share a host. A value
that somebody else changed meanwhile is not put back.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from kdht.datapath.host.ledger import Ledger, LedgerEntry, is_known
from kdht.datapath.host.ruleset import Guard
from kdht.errors import DatapathError

SYSCTLS = Path("/proc/sys/net")
RUNTIME_DIR = Path("/run/kdht-host")
"""Not /run/kdht: a node of another user, with the socket datapath alone, owns that for its control socket."""

V4, V6 = "ipv4/conf", "ipv6/conf"
LOOSE, STRICT = "2", "1"


def _leave_open(_: Guard) -> None:
    """The caller guards the host itself."""


class SysctlChange(NamedTuple):
    """One sysctl to set. `witness`: a second sysctl; if it was changed meanwhile, this one is not put back."""

    path: str
    value: str
    witness: str = ""


class Sysctls:
    """The sysctls that one node needs. `apply` and `restore` may be called again.

    `interfaces`: whose packets are re-addressed; `loose`: those of them where packets may get a
    source that is not theirs (anycast, several own addresses). `force6`: whether to use
    force_forwarding where the kernel has it.
    """

    def __init__(
        self,
        interfaces: Iterable[str],
        *,
        loose: Iterable[str] = (),
        runtime_dir: Path = RUNTIME_DIR,
        force6: bool = True,
    ) -> None:
        self.interfaces = tuple(interfaces)
        self.loose = frozenset(loose)
        self.force6 = force6
        self._ledger = Ledger(runtime_dir)
        self._held: dict[str, LedgerEntry] = {}
        """What this node has changed, if the ledger loses it."""

    def apply(self, close: Callable[[Guard], None] = _leave_open) -> Guard:
        """Put back what a crash left, set what is needed, and return what must be guarded now.

        `close` gets the same before the first write, so that the host forwards nothing of strangers meanwhile.
        Raises DatapathError; then everything is as it was before.
        """
        with self._noted() as ledger:
            plan = self._plan(ledger)
            entries = {change.path: _entry(change, ledger) for change in plan}
            # A crashed node put nothing back: the next start does.
            left = ledger.take_unheld()
            _put_back(ledger, {path: entry for path, entry in left.items() if path not in entries})
            # On disk before the first write, so a crash loses no old value.
            ledger.hold(entries)
            self._held = entries
            try:
                close(_guard(ledger))
                for change in plan:
                    if read(change.path) != change.value:
                        write(change.path, change.value)
            except DatapathError:
                self._held = {}
                ledger.let_go()
                _put_back(ledger, ledger.take_unheld())
                raise
            return _guard(ledger)

    def restore(self) -> None:
        """Put back the sysctls that no other node of this namespace needs."""
        with self._noted() as ledger:
            self._held = {}
            ledger.let_go()
            _put_back(ledger, ledger.take_unheld())

    def guard(self) -> Guard:
        """What the host refused before the first node started, without what the operator allowed since."""
        with self._noted() as ledger:
            return _guard(ledger)

    def wrong(self) -> list[str]:
        """The dotted names of the sysctls that this node needs and that have another value. Raises DatapathError."""
        with self._noted() as ledger:
            return [dotted(change.path) for change in self._plan(ledger) if read(change.path) != change.value]

    def undone(self) -> list[str]:
        """The dotted names of the sysctls that somebody else has changed since."""
        with self._ledger as ledger:
            wanted = [SysctlChange(path, entry.ours) for path, entry in ledger.entries.items()]
        return [dotted(change.path) for change in wanted if read(change.path) not in (None, change.value)]

    @contextmanager
    def _noted(self) -> Iterator[Ledger]:
        """The ledger, with what this node holds."""
        with self._ledger as ledger:
            ledger.remember(self._held)
            yield ledger

    # --- What is needed, from the values before any node started --------------------------

    def _plan(self, ledger: Ledger) -> list[SysctlChange]:
        plan = [change for name in self.interfaces for change in self._plan4(ledger, name)]
        # Else the kernel sends ICMP redirects, over lo, for this node's own packets.
        if _was(ledger, f"{V4}/all/send_redirects"):
            plan.append(SysctlChange(f"{V4}/all/send_redirects", "0"))
        return plan + self._plan6(ledger)

    def _plan4(self, ledger: Ledger, name: str) -> list[SysctlChange]:
        conf = f"{V4}/{name}"
        if read(f"{conf}/forwarding") is None:
            raise DatapathError(f"there is no interface {name} with IPv4: correct datapath.interfaces")
        strict = max(_was(ledger, f"{V4}/all/rp_filter"), _was(ledger, f"{conf}/rp_filter")) == int(STRICT)
        wanted = {
            SysctlChange(f"{conf}/forwarding", "1", f"{V4}/all/forwarding"): not _was(
                ledger, f"{conf}/forwarding"
            ),
            # Else a re-addressed packet with a source of this host is dropped as a martian.
            SysctlChange(f"{conf}/accept_local", "1"): not _was(ledger, f"{V4}/all/accept_local")
            and not _was(ledger, f"{conf}/accept_local"),
            SysctlChange(f"{conf}/send_redirects", "0"): _was(ledger, f"{conf}/send_redirects"),
            # A strict filter drops a source that is not an address of the incoming interface.
            SysctlChange(f"{conf}/rp_filter", LOOSE): strict and name in self.loose,
        }
        return [change for change, needed in wanted.items() if needed]

    def _plan6(self, ledger: Ledger) -> list[SysctlChange]:
        if read(f"{V6}/all/forwarding") is None or _was(ledger, f"{V6}/all/forwarding"):
            return []  # no IPv6, or a router already
        # Linux 6.17. all.forwarding would make the whole host a router, which ignores advertisements.
        if self.force6 and read(f"{V6}/all/force_forwarding") is not None:
            paths = [f"{V6}/{name}/force_forwarding" for name in self.interfaces]
            return [
                SysctlChange(path, "1") for path in paths if read(path) is not None and not _was(ledger, path)
            ]
        return _plan6_all(ledger)


class ForwardingSysctls(Sysctls):
    """The sysctls that bpf_fib_lookup needs. It checks the forwarding of the one interface and nothing else.

    For IPv6 that does not make the host a router. But the kernel then ignores router advertisements and drops the
    default routes learnt from them, on all interfaces whose accept_ra is not 2.
    """

    def _plan(self, ledger: Ledger) -> list[SysctlChange]:
        plan = []
        for name in self.interfaces:
            if read(f"{V4}/{name}/forwarding") is None:
                raise DatapathError(f"there is no interface {name} with IPv4: correct datapath.interfaces")
            if not _was(ledger, f"{V4}/{name}/forwarding"):
                plan.append(SysctlChange(f"{V4}/{name}/forwarding", "1", f"{V4}/all/forwarding"))
        names = [name for name in self.interfaces if read(f"{V6}/{name}/forwarding") is not None]
        if wanted := [name for name in names if not _was(ledger, f"{V6}/{name}/forwarding")]:
            plan += _heed_advertisements(ledger)
            plan += [SysctlChange(f"{V6}/{name}/forwarding", "1", f"{V6}/all/forwarding") for name in wanted]
        return plan


def _plan6_all(ledger: Ledger) -> list[SysctlChange]:
    """A write to all.forwarding sets every interface's value. So each old value is noted first."""
    return [
        *_heed_advertisements(ledger),
        *(SysctlChange(f"{V6}/{name}/forwarding", "1") for name in _names6()),
        SysctlChange(f"{V6}/all/forwarding", "1"),
    ]


def _heed_advertisements(ledger: Ledger) -> list[SysctlChange]:
    """Interfaces that accept router advertisements as a host shall do so as a router too."""
    heeding = [
        name
        for name in _names6()
        if _was(ledger, f"{V6}/{name}/accept_ra") == 1 and not _was(ledger, f"{V6}/{name}/forwarding")
    ]
    return [SysctlChange(f"{V6}/{name}/accept_ra", "2") for name in heeding]


def _names6() -> list[str]:
    return sorted(set(os.listdir(SYSCTLS / V6)) - {"all"})


# --- Reading and writing ------------------------------------------------------------------


def read(path: str) -> str | None:
    """A sysctl of this thread's network namespace, by its path under net/. None: there is no such sysctl."""
    try:
        with _opened(path, os.O_RDONLY) as file:
            return file.read().strip()
    except OSError:
        return None


def write(path: str, value: str) -> None:
    """Raises DatapathError, which names the sysctl that the operator has to set."""
    if not is_known(path):
        raise DatapathError(f"{dotted(path)} is no sysctl that kdht may change: correct datapath.interfaces")
    try:
        with _opened(path, os.O_WRONLY) as file:
            file.write(value)
    except OSError as error:
        raise DatapathError(
            f"cannot set {dotted(path)} = {value} ({error.strerror}): start kdhtd as root, or set it yourself"
        ) from error


def _opened(path: str, flags: int) -> TextIO:
    """Raises OSError; for a path out of /proc/sys/net, too."""
    if ".." in path.split("/") or path.startswith("/"):
        raise FileNotFoundError(path)
    fd = os.open(SYSCTLS / path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    return open(fd, "r" if flags == os.O_RDONLY else "w", encoding="ascii")


def dotted(path: str) -> str:
    """As sysctl(8) takes it. It writes a dot in an interface's name, such as a VLAN's, as a slash."""
    return ".".join(["net", *(part.replace(".", "/") for part in path.split("/"))])


def _was(ledger: Ledger, path: str) -> int:
    """The value before any node changed it."""
    entry = ledger.entries.get(path)
    return int((entry.was if entry else read(path)) or 0)


def _entry(change: SysctlChange, ledger: Ledger) -> LedgerEntry:
    known = ledger.entries.get(change.path)
    return known or LedgerEntry(
        read(change.path) or "",
        change.value,
        change.witness,
        read(change.witness) or "" if change.witness else "",
    )


def _put_back(ledger: Ledger, entries: dict[str, LedgerEntry]) -> None:
    """Put the old values back in the opposite order, but only where the value is still ours.

    All values are read before the first is written, because one write may change others (all.forwarding).
    """
    ours = {
        path: entry
        for path, entry in entries.items()
        if read(path) == entry.ours and (not entry.witness or read(entry.witness) == entry.witness_was)
    }
    for path, entry in reversed(ours.items()):
        write(path, entry.was)


def _guard(ledger: Ledger) -> Guard:
    entries = ledger.entries
    # An operator who makes this host a router wants its packets forwarded: no guard then.
    router4, router6 = read("ipv4/ip_forward") == "1", read(f"{V6}/all/forwarding") == "1"
    all6 = entries.get(f"{V6}/all/forwarding")
    return Guard(
        forward4=frozenset() if router4 else _interfaces(entries, V4, "forwarding"),
        forward6=frozenset() if router6 else _interfaces(entries, V6, "force_forwarding"),
        forward6_all=all6 is not None and all6.was == "0",
        martian4=_interfaces(entries, V4, "accept_local"),
        reverse4=_interfaces(entries, V4, "rp_filter"),
    )


def _interfaces(entries: dict[str, LedgerEntry], family: str, name: str) -> frozenset[str]:
    found = (Path(path) for path in entries if path.startswith(family) and path.endswith(f"/{name}"))
    return frozenset(path.parent.name for path in found) - {"all", "default"}
