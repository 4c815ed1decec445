"""The XDP program, loaded for test runs: one node's state, and a clock that is set."""

from kdht.errors import DatapathError
from kdht.replay.tables import ReplayTable
from kdht.wire._shared import ID_BITS, Reason


class TestProgram:
    """One loaded program with its maps. Raises DatapathError where it cannot be had."""

    def __init__(self, table: ReplayTable, *, test_run: bool = True) -> None:
        try:
            from kdht.datapath.ebpf import _ebpf
            from kdht.datapath.ebpf.networks import Network
            from kdht.datapath.ebpf.program import OBJECT, PROGRAM
        except ImportError:
            raise DatapathError(
                "kdht was built without the eBPF datapath: install clang and libbpf-dev, and build it again"
            ) from None
        self._ebpf = _ebpf
        # In a test run frames come in at lo, which has the address of zeros that our frames have.
        self._networks = [Network(1, 1, None, bytes(6), generic=False)]
        _ebpf.be_quiet()
        try:
            self._object = _ebpf.Object(str(OBJECT), PROGRAM)
        except OSError as error:
            raise DatapathError(
                f"the XDP program cannot be loaded: {error.strerror or error}: it needs root, and a kernel "
                "with BPF"
            ) from None
        core = table.core()
        for index in range(ID_BITS):
            if core.bucket(index):
                self._object.write_bucket(index, core.raw_bucket(index))
        self._config = core.raw_config()
        self._flags = _ebpf.FIXED_TIME | (_ebpf.TEST_RUN if test_run else 0)
        self._now: int | None = None
        self.set_time(table.now or 0)

    @property
    def fd(self) -> int:
        return self._object.program_fd

    def set_time(self, now: int) -> None:
        """The unix second of the verdicts from now on."""
        if now != self._now:
            state = self._ebpf.state(self._config, self._networks, now=now % 2**32, flags=self._flags)
            self._object.update_whole("kdht_states", state)
            self._now = now

    def counters(self) -> list[int]:
        """Packets so far, by reason."""
        return self._object.per_cpu("kdht_counters", len(Reason))
