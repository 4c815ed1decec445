"""Runs the faces of a job until it is told to stop.

A face that cannot start, because its port is in use, say, does not stop the others: it is tried again.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any, cast

from kdht.client import AsyncClient
from kdht.config.faces import FacesJob
from kdht.errors import ConfigError
from kdht.faces.face import Face, FaceParts
from kdht.faces.senders import SenderRights
from kdht.program.faces_report import SECONDS, STARTING, FaceReport, FacesReport
from kdht.times import SteadyTime, UnixTime

log = logging.getLogger(__name__)

# A port in use is often one of a process that is about to end.
RETRY_SECONDS = 5.0
STOP_SECONDS = 3.0
"""That a face may take for its end."""

Make = Callable[[Any, FaceParts], Face]


def makers(job: FacesJob) -> dict[str, Make]:
    """The faces that the job wants. Only those are imported."""
    return {name: cast(Make, import_module(f"kdht.faces.{name}").make) for name in job.wanted}


class Runner:
    """`make`: how each face is made. `on_report` gets a report each second."""

    def __init__(
        self, job: FacesJob, make: dict[str, Make], on_report: Callable[[FacesReport], object]
    ) -> None:
        self._job = job
        self._make = make
        self._on_report = on_report
        self._running: dict[str, Face] = {}
        self._why: dict[str, str] = {}
        self._retry_at = 0.0

    async def run(self, stopping: asyncio.Event, *, is_strict: bool) -> None:
        """Serve until `stopping`. `is_strict`: raise the ConfigError of a face that cannot start."""
        async with AsyncExitStack() as stack:
            parts = self._parts(stack)
            # Undone first: a face's last answers need the clients.
            stack.push_async_callback(self._stop_all)
            while not stopping.is_set():
                if len(self._running) < len(self._make) and time.monotonic() >= self._retry_at:
                    await self._start_missing(parts, is_strict=is_strict)
                self._on_report(self.report())
                try:
                    await asyncio.wait_for(stopping.wait(), SECONDS)
                except TimeoutError:
                    # Time for the next report.
                    continue

    def report(self) -> FacesReport:
        """All faces, as they are now."""
        return FacesReport({name: self._report_of(name) for name in self._make})

    def _report_of(self, name: str) -> FaceReport:
        listen = [str(each) for each in self._job.wanted[name].listen]
        face = self._running.get(name)
        if face is None:
            return FaceReport(listen, why=self._why.get(name, STARTING))
        return FaceReport(listen, dict(face.counters()))

    def _parts(self, stack: AsyncExitStack) -> FaceParts:
        def client(token: str | None, scope: str | None) -> AsyncClient:
            # "" keeps out the $KDHT_TOKEN of whoever started kdhtd: strangers would act with it.
            made = AsyncClient(self._job.nodes, token=token or "", scope=scope)
            stack.push_async_callback(made.close)
            return made

        return FaceParts(
            nodes=tuple(self._job.nodes),
            client=client,
            cookie_keys=tuple(self._job.cookie_keys),
            rights=SenderRights(self._job.clients.senders.prefixes()),
            unix=cast(Callable[[], UnixTime], time.time),
            steady=cast(Callable[[], SteadyTime], time.monotonic),
        )

    async def _start_missing(self, parts: FaceParts, *, is_strict: bool) -> None:
        for name in [name for name in self._make if name not in self._running]:
            try:
                await self._start(name, parts)
            except ConfigError as error:
                if is_strict:
                    raise
                if self._why.get(name) != str(error):
                    log.error("a face cannot start", extra={"face": name, "error": error})
                self._why[name] = str(error)
        self._retry_at = time.monotonic() + RETRY_SECONDS

    async def _start(self, name: str, parts: FaceParts) -> None:
        face = self._make[name](self._job.wanted[name], parts)
        try:
            await face.start()
        except BaseException:
            await face.stop()
            raise
        self._running[name] = face
        self._why.pop(name, None)
        log.info("face serves", extra={"face": name, "listen": ", ".join(self._report_of(name).listen)})

    async def _stop_all(self) -> None:
        running, self._running = self._running, {}
        for name, face in running.items():
            try:
                await asyncio.wait_for(face.stop(), STOP_SECONDS)
            except Exception:
                # The others have to be stopped, too.
                log.exception("a face did not stop well", extra={"face": name})
