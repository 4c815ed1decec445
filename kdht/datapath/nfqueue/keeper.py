"""Keeps the worker process of the queues alive.

One thread starts the worker, waits for its end and starts the next: soon at first, then after growing pauses. No
failure ends this thread: a worker that cannot be started for want of memory, processes or files is tried again.
Only packets in the queues of the dead worker are lost. Until the next worker is ready, the ruleset's bypass
hands packets to the socket. That thread is the worker's parent, and the kernel ends the worker when its parent
ends (PR_SET_PDEATHSIG): so no worker outlives a killed daemon.
"""

import logging
import os
import select
import struct
import subprocess
import threading
import time
from mmap import mmap

from kdht._routing import Core
from kdht.datapath.host import children
from kdht.datapath.host.netlink import Queue
from kdht.datapath.nfqueue._nfqueue import COUNTERS, LANE_BYTES
from kdht.datapath.nfqueue.queue_worker import READY, Job
from kdht.datapath.upkeep import Upkeep, started
from kdht.errors import DatapathError

# A busy host may take seconds to start Python and to bind the queues.
START_TIMEOUT = 20.0
# Seconds. The worker ends after its batch, within milliseconds; a stop of the daemon must not wait for a
# broken one.
STOP_TIMEOUT = 5.0
# A worker that always fails must not take a processor for its restarts. Packets take the socket meanwhile, so
# nothing is lost.
FIRST_PAUSE, LAST_PAUSE = 0.1, 10.0
LONG_LIFE = 30.0
"""A worker that ran so many seconds was healthy: after its end the pauses start from the shortest."""

log = logging.getLogger("kdht.nfqueue")


class Keeper:
    """One worker at a time."""

    def __init__(self, core: Core, queue: Queue, max_len: int, mark: int) -> None:
        self.queue = queue
        self.pid: int | None = None
        """The process ID of the worker that gives verdicts now."""
        self.started = 0
        """How many workers got ready so far."""
        self.why = ""
        """Why there is no worker, or why the last one ended."""
        self._core, self._max_len, self._mark = core, max_len, mark
        # Outside of the worker, so its counters outlive it.
        self._counters_fd = os.memfd_create("kdht-queues", os.MFD_CLOEXEC)
        os.ftruncate(self._counters_fd, queue.total * LANE_BYTES)
        self._counters = mmap(self._counters_fd, queue.total * LANE_BYTES)
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC)
        self._starting = Upkeep(log, "the start of the queue's worker")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the worker and wait until it gives verdicts. Raises DatapathError. Called once."""
        try:
            self._thread = started("kdht-keeper", self._run)
        except DatapathError:
            self.stop()
            raise
        settled = self._settled.wait(START_TIMEOUT)
        if self.pid is None:
            self.stop()
            raise DatapathError(self.why if settled else "the queue's worker does not start")

    def stop(self) -> None:
        """End the worker after it has answered all waiting packets. A second call is a no-op."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        # The thread waits for the worker, not for the event: wake it.
        os.write(self._wake, b"s")
        if self._thread is not None:
            self._thread.join()
        for fd in (self._wake, self._woken, self._counters_fd):
            os.close(fd)

    def counters(self) -> list[dict[str, int]]:
        """The counters of each queue, summed over all workers so far."""
        return [
            dict(
                zip(
                    COUNTERS,
                    struct.unpack_from(f"={len(COUNTERS)}Q", self._counters, index * LANE_BYTES),
                    strict=True,
                )
            )
            for index in range(self.queue.total)
        ]

    # --- The keeper's thread ----------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            born = time.monotonic()
            if not self._starting.attempt(self._keep_one):
                self.why = self._starting.why
            self._settled.set()
            # Packets take the socket meanwhile, so a worker that fails at once may wait.
            pause = FIRST_PAUSE if time.monotonic() - born > LONG_LIFE else min(pause * 2, LAST_PAUSE)
            self._stopping.wait(pause)

    def _keep_one(self) -> None:
        """One worker, until it has ended. Raises DatapathError, or OSError."""
        with self._launch() as worker:
            try:
                self._attend(worker)
            finally:
                # First: the status must not name a worker that is being ended.
                self.pid = None
                _end(worker)

    def _launch(self) -> subprocess.Popen[bytes]:
        job = Job(
            core_fd=self._core.fd,
            counters_fd=self._counters_fd,
            first_queue=self.queue.first,
            queues=self.queue.total,
            max_len=self._max_len,
            mark=self._mark,
            parent=os.getpid(),
        )
        return children.started(
            children.command("kdht.datapath.nfqueue.queue_worker", *job.arguments()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(job.core_fd, job.counters_fd),
            env=children.environment(),
            # Ctrl-C at a terminal goes to the daemon, which ends the worker after its waiting packets.
            start_new_session=True,
        )

    def _attend(self, worker: subprocess.Popen[bytes]) -> None:
        """One worker: from its start to its end, or to the keeper's."""
        said = self._first_line(worker)
        if said != READY:
            self.why = said or f"the queue's worker ended at its start (status {worker.wait()})"
            return
        self.pid = worker.pid
        self.started += 1
        log.info("the queue's worker, process %d, gives verdicts", worker.pid)
        self.why = ""
        self._settled.set()
        exited = os.pidfd_open(worker.pid)
        try:
            _wait([exited, self._woken])
        finally:
            os.close(exited)
        if not self._stopping.is_set():
            self.why = f"the queue's worker ended with status {worker.wait()}; another is on its way"
            log.warning("%s; meanwhile packets go to the socket", self.why)

    def _first_line(self, worker: subprocess.Popen[bytes]) -> str:
        assert worker.stdout is not None
        said = _wait([worker.stdout.fileno(), self._woken], START_TIMEOUT)
        if self._stopping.is_set():
            return "stopped"
        if not said:  # a read would wait for ever
            return "the queue's worker does not start"
        return worker.stdout.readline().decode(errors="replace").strip()


def _wait(fds: list[int], seconds: float | None = None) -> bool:
    """Whether one of the descriptors can be read in time."""
    # Not select(): that refuses descriptors above 1023.
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Close its standard input, which tells it to end. It has STOP_TIMEOUT seconds, then it is killed."""
    assert worker.stdin is not None
    worker.stdin.close()
    try:
        worker.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
