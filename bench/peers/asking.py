"""The load: bench/c/udp_ask.c, built once, and its requests."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bench.peers.base import Timing
from bench.peers.missing import PeerMissing

C_DIRECTORY = Path(__file__).parent.parent / "c"
BUILD = Path(__file__).parent.parent / "results" / "bin"
TIMEOUT = 600.0


@cache
def program(name: str) -> Path:
    """bench/c/NAME.c, compiled. Raises PeerMissing."""
    BUILD.mkdir(parents=True, exist_ok=True)
    built = BUILD / name
    try:
        subprocess.run(["cc", "-O2", "-o", built, C_DIRECTORY / f"{name}.c"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerMissing(f"{name}.c cannot be compiled: {error}") from None
    return built


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Where things lie in a protocol's messages, for udp_ask; -1: there is none."""

    id_at: int
    id_size: int
    status_at: int = -1
    attempt_at: int = -1
    answer_id_at: int | None = None
    """Of the number in an answer, if it lies elsewhere there."""


def ask(
    targets: Sequence[str],
    requests: Sequence[bytes],
    answers: Sequence[bytes],
    protocol: Protocol,
    outstanding: int,
    count: int | None = None,
    *,
    cpu: int | None = None,
) -> Timing:
    """Send the requests, all of one length, to "IP:PORT" targets in turn; `answers` may be empty.

    `count`: how many in all, each once if left out. `cpu`: the processor to stay on.
    """
    directory = Path(mkdtemp(prefix="udp_ask."))
    try:
        files = directory / "requests", directory / "answers"
        for file, messages in zip(files, (requests, answers), strict=True):
            file.write_bytes(b"".join(messages))
        numbers = [protocol.id_at, protocol.id_size, protocol.status_at, protocol.attempt_at]
        sizes = len(requests[0]), len(answers[0]) if answers else 0
        command = [program("udp_ask"), ",".join(targets), files[0], sizes[0], files[1], sizes[1], *numbers]
        command += [outstanding, count or len(requests)]
        command += [] if protocol.answer_id_at is None else [protocol.answer_id_at]
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        done = subprocess.run(
            [*pinned, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT
        )
    finally:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
    return parsed(json.loads(done.stdout))


def parsed(said: dict[str, Any]) -> Timing:
    """What udp_ask printed."""
    return Timing(
        done=said["done"],
        failed=said["bad"] + said["lost"],
        seconds=said["seconds"],
        p50=said["p50_us"] / 1e3,
        p99=said["p99_us"] / 1e3,
        client_cpu=said["cpu"],
    )
