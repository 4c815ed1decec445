"""Keeps the process of the faces alive: kdht-faces, a child of kdhtd where its configuration has a face.

A child that ends is started again: soon at first, then after growing pauses. One that has not reported for HUNG_SECONDS is killed
and replaced. The kernel ends the child with its parent (PR_SET_PDEATHSIG). All of it runs in the event loop.
"""

import asyncio
import logging
import os
import subprocess
import time
from contextlib import suppress
from typing import Any

import msgspec

from kdht.config.faces import FacesJob
from kdht.datapath.host import children
from kdht.errors import KdhtError
from kdht.program.faces_report import STARTING, FacesReport
from kdht.program.node_status import FaceState

log = logging.getLogger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.2, 30.0
LONG_LIFE = 60.0
"""Seconds after which a child counts as healthy: the pauses start from the shortest again."""
HUNG_SECONDS = 30.0
STOP_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
# Bytes. A report has a few kilobytes. A child that went wrong must not fill the memory of its node.
MAX_LINE = 1 << 18


class Faces:
    """The child of one daemon."""

    def __init__(self) -> None:
        self._job: FacesJob | None = None
        self._task: asyncio.Task[None] | None = None
        self._report: FacesReport | None = None
        self._pid: int | None = None
        self._why = ""
        self._starts = 0
        """How many children were started."""

    def follow(self, job: FacesJob) -> None:
        """Have a child with this job from now on; no child, if it wants no face."""
        if job == self._job:
            return
        self._job = job
        before, self._task = self._task, None
        if before is not None:
            before.cancel()
        if job.wanted or before is not None:
            self._task = asyncio.create_task(self._run(job, before))

    async def stop(self) -> None:
        """End the child."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def states(self) -> list[FaceState]:
        """All faces that should run."""
        if self._job is None:
            return []
        return [
            self._state_of(name, [str(at) for at in section.listen])
            for name, section in self._job.wanted.items()
        ]

    def _state_of(self, name: str, listen: list[str]) -> FaceState:
        common: dict[str, Any] = {"pid": self._pid, "starts": self._starts}
        told = self._report.faces.get(name) if self._report else None
        if told is None:
            return FaceState(name, listen, up=False, why=self._why or STARTING, **common)
        return FaceState(name, listen, up=not told.why, why=told.why, counters=told.counters, **common)

    async def _run(self, job: FacesJob, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            # The new child needs the ports of the old one.
            await asyncio.gather(before, return_exceptions=True)
        pause = FIRST_PAUSE
        while job.wanted:
            born = time.monotonic()
            try:
                await self._keep_one(job)
            except (KdhtError, OSError) as error:
                self._why = str(error)
            log.warning("the faces are down; they are started again", extra={"why": self._why})
            pause = FIRST_PAUSE if time.monotonic() - born > LONG_LIFE else min(pause * 2, LAST_PAUSE)
            await asyncio.sleep(pause)

    async def _keep_one(self, job: FacesJob) -> None:
        """One child, until its end. Raises DatapathError, OSError."""
        with children.started(
            children.command("kdht.faces.main", "--child", str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=children.environment(),
            # Ctrl-C at a terminal goes to the daemon, which ends its child.
            start_new_session=True,
        ) as child:
            try:
                self._starts += 1
                self._pid = child.pid
                assert child.stdin is not None
                # Less than a pipe takes at once, so this does not wait.
                with suppress(BrokenPipeError), child.stdin:
                    child.stdin.write(job.pack())
                await self._listen(child)
            finally:
                # First: the status must not name a child that is being ended.
                self._report, self._pid = None, None
                # Shielded: a cancelled task still has to wait for its child, for the ports are free only then.
                await asyncio.shield(_end(child))
        self._why = (
            self._why or f"the process of the faces ended with status {child.returncode}: its log says why"
        )

    async def _listen(self, child: "subprocess.Popen[bytes]") -> None:
        """Read reports until there are no more."""
        self._why = ""
        reader = asyncio.StreamReader(limit=MAX_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), child.stdout
        )
        try:
            while line := await asyncio.wait_for(reader.readline(), HUNG_SECONDS):
                self._report = FacesReport.parse(line)
        except TimeoutError:
            self._why = f"the process of the faces said nothing for {HUNG_SECONDS:g} s and was killed"
            child.kill()
        except (ValueError, msgspec.ValidationError, msgspec.DecodeError) as error:
            self._why = f"the process of the faces says what cannot be read: {error}"
        finally:
            transport.close()


async def _end(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL only for one that does not end by it."""
    child.terminate()
    until = time.monotonic() + STOP_SECONDS
    while child.poll() is None:
        if time.monotonic() > until:
            log.error("the process of the faces does not end: it is killed", extra={"pid": child.pid})
            child.kill()
            child.wait()
            return
        await asyncio.sleep(0.02)
