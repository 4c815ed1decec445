"""What one datapath changes on its host, kept as it must be: the sysctls and the nft table.

The host must never forward packets of strangers. So the table with its guards is loaded before forwarding is switched
on, and removed after forwarding is switched off. The kernel announces changes by others (watch.py), and `look` undoes them.
Changes that come again and again are a decision of the host's owner: they stay for a while, and the status reports them.
If somebody insists on another table, forwarding is switched off, because the guards are in the table.

    set_up    claims the table's name, loads the guards, sets the sysctls
    divert    loads the whole table, which hands packets to the queues (nfqueue only)
    watch     undoes changes by others from now on
    look      undoes them once, and returns a text about changes that it cannot undo

Contract: `look` runs on the watch's thread, and on any other. All errors are DatapathErrors.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from kdht.datapath.host import nfnetlink
from kdht.datapath.host.claim import TableClaim
from kdht.datapath.host.links import LEAST_MTU, mtu_of
from kdht.datapath.host.ruleset import Guard, RuleKind, Ruleset
from kdht.datapath.host.sysctl import SYSCTLS, V4, Sysctls
from kdht.datapath.host.watch import HostWatch
from kdht.errors import DatapathError

log = logging.getLogger(__name__)

TICK_S = 2.0
"""Between two looks without an announcement. Some sysctls have none."""
MOST_MENDS = 5
"""How often one thing is put right,"""
MENDS_S = 60.0
"""within so many seconds. After that somebody else wants it otherwise."""


class HostSettings:
    """The settings of one datapath. `ruleset` makes the table with these guards. `also` is called at every look."""

    def __init__(
        self,
        sysctls: Sysctls,
        ruleset: Callable[[Guard], Ruleset],
        runtime_dir: Path,
        also: Callable[[], None] | None = None,
    ) -> None:
        self.ruleset = ruleset(Guard())
        self.trouble = ""
        """Why the settings are wrong and stay so. Empty: all are right."""
        self.mended = 0
        """How often something was put right."""
        self._sysctls = sysctls
        self._make_ruleset = ruleset
        self._also = also
        self._diverts = False
        self._kind: RuleKind | None = None
        self._only: int | None = None
        """The marker of the only messages that go to the queues. None: all go."""
        self._left_out: list[int] = []
        """The handles of the rules that leave out the others,"""
        self._traced: list[int] = []
        """and of the rule that traces."""
        self._loaded: object = None
        """The table in the kernel, as it was right after it was loaded."""
        self._claim = TableClaim(runtime_dir, self.ruleset.options.table)
        self._mends = _Mends()
        self._lock = threading.RLock()
        self._watch = HostWatch(self._changed, TICK_S)
        self._undo = ExitStack()

    def set_up(self) -> None:
        """Raises DatapathError; then the host is as before."""
        with self._lock, ExitStack() as undo:
            self._claim.take()
            undo.callback(self._claim.release)
            undo.callback(self._remove_table)
            self._sysctls.apply(self._load)
            undo.callback(self._sysctls.restore)
            self._undo = undo.pop_all()

    def divert(self) -> RuleKind:
        """From now on packets go to the queues."""
        with self._lock:
            self._diverts = True
            self._load(self._sysctls.guard())
            assert self._kind is not None
            return self._kind

    def watch(self) -> None:
        """From now on, put right what somebody changes."""
        try:
            self._watch.start()
        except OSError as error:
            raise DatapathError(f"the kernel does not announce changes of this host: {error}") from error

    def divert_only(self, marker: int) -> None:
        """Nothing goes to the queues but messages with this marker (Ruleset.divert_only). May be called again."""
        with self._lock:
            if self._only is None:
                self._leave_out(marker)
                self._only = marker

    def divert_all(self) -> None:
        """The opposite. May be called again."""
        with self._lock:
            if self._only is None:
                return
            self._only = None
            if self._fingerprint() == self._loaded:
                self.ruleset.remove_rules(self._left_out)
                self._loaded = self._fingerprint()
            else:
                self._load(self._sysctls.guard())

    def trace(self, wanted: bool) -> None:
        """Have nft trace some of the packets that go to the queues, or none. May be called again."""
        with self._lock:
            if wanted == bool(self._traced) or self._only is not None:
                return
            if self._fingerprint() != self._loaded:  # it is put right first
                return
            if wanted:
                self._traced = self._added(self.ruleset.trace)
            else:
                self.ruleset.remove_rules(self._traced)
                self._traced = []
            self._loaded = self._fingerprint()

    @property
    def announced(self) -> int:
        """How often the kernel announced changes of the host."""
        return self._watch.announced

    def _added(self, add: Callable[[], None]) -> list[int]:
        """The handles of the rules that this adds."""
        table = self.ruleset.options.table
        before = {handle for _, handle in nfnetlink.rules(table)}
        add()
        return [handle for _, handle in nfnetlink.rules(table) if handle not in before]

    def _leave_out(self, marker: int) -> None:
        self._left_out = self._added(lambda: self.ruleset.divert_only(marker))
        self._loaded = self._fingerprint()

    def unwatch(self) -> None:
        """Let others change what they like from now on. May be called again."""
        self._watch.stop()

    def end_diverting(self) -> None:
        """Packets go to the socket. Ends watching too."""
        self.unwatch()
        if self._diverts:
            self._diverts = False
            with suppress(DatapathError):  # somebody removed the table
                self.ruleset.end_diverting()

    def undo(self) -> None:
        """The host is as before. May be called again."""
        self.unwatch()
        self._undo.close()

    def leave(self) -> None:
        """Stop watching, but leave the host as it is."""
        self.unwatch()
        self._claim.release()
        self._undo.pop_all()

    def look(self) -> str:
        """Put right what somebody changed. Returns what cannot be put right, or nothing."""
        with self._lock:
            try:
                self._mend()
                self.trouble = ""
            except (DatapathError, OSError) as error:
                self.trouble = str(error)
            return self.trouble

    def reload(self) -> None:
        """Load the table again, with other options of the ruleset's."""
        with self._lock:
            self._load(self._sysctls.guard())

    def _changed(self) -> None:
        self.look()
        if self._also is not None:
            self._also()

    def _mend(self) -> None:
        table = self.ruleset.options.table
        if self._fingerprint() != self._loaded:
            try:
                self.may_mend(f"table inet {table}")
                self._load(self._sysctls.guard())
            except DatapathError:
                # The guards may be gone, so the host must not forward.
                self._sysctls.restore()
                raise
            self.note(f"table inet {table}")
        self._follow(self._sysctls.guard())
        for name in self._sysctls.interfaces:
            if not (SYSCTLS / V4 / name).exists():
                raise DatapathError(f"interface {name} is gone: it is used again as soon as it is back")
        if wrong := self._sysctls.wrong():
            for name in wrong:
                self.may_mend(name)
            self._sysctls.apply(self._follow)
            for name in wrong:
                self.note(name)
        for name in self._sysctls.interfaces:
            mtu = mtu_of(name)
            if mtu is not None and mtu < LEAST_MTU:
                raise DatapathError(
                    f"{name} carries {mtu} bytes, and messages need {LEAST_MTU}: ip link set {name} mtu 1500"
                )

    def may_mend(self, what: str) -> None:
        """Raises DatapathError if this was put right too often."""
        if self._mends.count(what, time.monotonic()) >= MOST_MENDS:
            raise DatapathError(f"somebody changes {what} again and again, so it stays as they want it")

    def note(self, what: str) -> None:
        """This was put right."""
        self._mends.note(what, time.monotonic())
        self.mended += 1
        log.warning("somebody changed %s: put right", what)

    def _follow(self, guard: Guard) -> None:
        """Exchange the guards: this host was made a router, or is none any more."""
        if guard == self.ruleset.options.guard:
            return
        log.info("forwarding was changed by somebody else: the guards of the table follow")
        self.ruleset.set_guard(guard)
        self.ruleset = self._make_ruleset(guard)
        self._loaded = self._fingerprint()

    def _load(self, guard: Guard) -> None:
        self.ruleset = self._make_ruleset(guard)
        self._traced = []
        if self._diverts:
            # Asking the kernel again would take a second.
            self._kind = self.ruleset.apply(self._kind)
            if self._only is not None:
                self._leave_out(self._only)
        else:
            self.ruleset.apply_guard()
        self._loaded = self._fingerprint()

    def _fingerprint(self) -> object:
        table = self.ruleset.options.table
        return nfnetlink.rules(table), [nfnetlink.elements(table, name) for name in self.ruleset.fixed_sets]

    def _remove_table(self) -> None:
        # The rest of the stop goes on: a table that stays is replaced by the next start.
        with suppress(DatapathError):
            self.ruleset.remove()


class _Mends:
    """When each thing was put right."""

    def __init__(self) -> None:
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def note(self, what: str, now: float) -> None:
        self._times[what].append(now)

    def count(self, what: str, now: float) -> int:
        """How often it was put right lately."""
        times = self._times[what]
        while times and times[0] < now - MENDS_S:
            times.popleft()
        return len(times)
