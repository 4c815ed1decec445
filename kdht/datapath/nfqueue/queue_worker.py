"""The process that gives verdicts: `python -m kdht.datapath.nfqueue.queue_worker`, started by keeper.py.

Contract with the daemon: it inherits two file descriptors (the core's mapping, the memory of the counters) and
gets the numbers of a Job as arguments. It writes one line to standard output: `ready`, or why it cannot start.
It gives verdicts until its standard input ends; then it answers the waiting packets and ends. It never outlives
the daemon, which holds the other end of that pipe. It imports little, to start soon and to stay small.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from netfilterqueue import NetfilterQueue, Packet

    from kdht.datapath.nfqueue._nfqueue import QueueLoop

READY = "ready"
CANNOT = 4
"""The exit status if the queues cannot be opened; DatapathError.exit_code has the same."""
BROKEN = 1
# Lanes below are the daemon's own threads'.
FIRST_LANE = 8
ROOM_PER_PACKET = 1280
"""Bytes of socket buffer for each packet that may wait. The kernel doubles the number."""
# The kernel charges the buffer to this socket only as packets wait in it.
MAX_BUFFER = 64 << 20
SHORT = 500
"""Characters of a last line: what a pipe with some room takes at once."""


class Job(NamedTuple):
    core_fd: int
    counters_fd: int
    first_queue: int
    queues: int
    max_len: int
    mark: int
    parent: int

    def arguments(self) -> list[str]:
        return [str(value) for value in self]


def main(arguments: list[str]) -> int:
    from kdht.datapath.nfqueue._nfqueue import die_with

    job = Job(*map(int, arguments))
    # Before the check of the parent: a parent that died in between is noticed by one of the two.
    die_with(signal.SIGKILL)
    if os.getppid() != job.parent:
        return BROKEN
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all; the daemon tells the worker when to stop
    try:
        loops, _queues = _open(job)
    except OSError as error:
        print(error, flush=True)
        return CANNOT
    threads = [threading.Thread(target=_serve, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    print(READY, flush=True)
    sys.stdin.buffer.read()
    for loop in loops:
        loop.stop()
    for thread in threads:
        thread.join()
    return 0


def _open(job: Job) -> tuple[list[QueueLoop], list[NetfilterQueue]]:
    """The loops and the bound queues. A queue unbinds when it is freed. Raises OSError."""
    from netfilterqueue import COPY_PACKET, NetfilterQueue

    from kdht._routing import Core
    from kdht.datapath.nfqueue._nfqueue import COPY_RANGE, LANE_BYTES, QueueLoop

    core = Core(job.core_fd)
    counters = memoryview(mmap.mmap(job.counters_fd, job.queues * LANE_BYTES))
    buffer = min(job.max_len * ROOM_PER_PACKET, MAX_BUFFER)
    loops: list[QueueLoop] = []
    queues: list[NetfilterQueue] = []
    for index in range(job.queues):
        number = job.first_queue + index
        queue = NetfilterQueue()
        try:
            queue.bind(number, _accept, job.max_len, COPY_PACKET, COPY_RANGE, buffer)
        except OSError as error:
            raise OSError(
                f"cannot bind queue {number}: another program has it, or this is not root"
            ) from error
        queues.append(queue)
        mine = counters[index * LANE_BYTES : (index + 1) * LANE_BYTES]
        loops.append(QueueLoop(core, FIRST_LANE + index, queue.get_fd(), number, job.mark, mine))
    return loops, queues


def _accept(packet: Packet) -> None:
    """Accepts packets that arrive while the queue is set up: the socket gets them."""
    packet.accept()


def _serve(loop: QueueLoop) -> None:
    """Run a loop. If it fails, end the whole process, so that the daemon starts another."""
    try:
        loop.run()
    except OSError as error:
        _last_words(str(error))
        # Not sys.exit: that would end this thread alone, and its queue would never be read again.
        os._exit(BROKEN)


def _last_words(text: str) -> None:
    """A line on standard error, unless its reader stalls: the packets of a dead loop wait for this process's end."""
    poll = select.poll()
    poll.register(sys.stderr.fileno(), select.POLLOUT)
    if poll.poll(0):
        print(text[:SHORT], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
