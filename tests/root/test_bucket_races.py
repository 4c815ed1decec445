"""No packet uses half a bucket: readers in the kernel beside a writer that never rests.

The same reader looks into buckets published the former way, as elements of a hash map without preallocation. Since
Linux 6.1 it meets halves of two of them: so the test can fail. KDHT_BUCKET_READS says how many reads (2 million).
"""

import mmap
import os
import signal
import struct
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from kdht.datapath.ebpf import _ebpf
from kdht.wire import _shared as shared

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/helpers/bucket_reader.bpf.c"
READS = int(os.environ.get("KDHT_BUCKET_READS", "2000000"))
PATIENCE = 120
"""Seconds until a torn read of the former way must have been seen."""
VERSIONS = 64
RUNS = 100
"""Of the program in one call, each of 1,000 reads."""


class Counts(NamedTuple):
    reads: int
    torn: int
    given_up: int


def bucket(version: int) -> bytes:
    """As the reader checks it: the nearest to the key 0 is the last contact in odd versions, else the first."""
    contacts = b""
    for i in range(shared.K):
        first = shared.K - i if version & 1 else i + 1
        ids, ip = bytes([first]) + bytes(19), struct.pack(">8xII", version, i)
        contacts += ids + ip + struct.pack(">H", version & 0xFFFF)
    room = shared.ROOM * shared.CONTACT_LEN - len(contacts)
    body = struct.pack("=I", shared.K) + contacts + bytes(room)
    return body + bytes(-len(body) % 8)


def version_of(index: int, number: int) -> int:
    return index << 31 | number % VERSIONS + 1


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bpf") / "bucket_reader.bpf.o"
    system = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-fno-strict-aliasing", "-DKDHT_LOADS_STAY_IN_ORDER"]
    include = ["-I", ROOT / "include", "-I", ROOT / "bpf", system]
    subprocess.run(["clang", *flags, *include, "-c", SOURCE, "-o", made], check=True)
    return made


@contextmanager
def writing(program: _ebpf.Object) -> Iterator[mmap.mmap]:
    """A process that publishes both buckets in both ways, without a pause. It counts in shared memory."""
    counter = mmap.mmap(-1, 8)
    made = {index: [bucket(version_of(index, number)) for number in range(VERSIONS)] for index in (0, 1)}
    publish(program, made, 0)
    child = os.fork()
    if child == 0:
        number = 0
        while os.getppid() != 1:
            number += 1
            publish(program, made, number % VERSIONS)
            struct.pack_into("=Q", counter, 0, number)
        os._exit(0)
    try:
        yield counter
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def publish(program: _ebpf.Object, made: dict[int, list[bytes]], number: int) -> None:
    for index in (0, 1):
        program.write_bucket(index, made[index][number])
        program.update("hashed_buckets", struct.pack("=I", index), made[index][number])


def read(program: _ebpf.Object) -> Counts:
    program.test_run(bytes(64), RUNS)
    return Counts(*program.per_cpu("kdht_counters", 3))


def test_no_reader_uses_half_a_bucket(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _ebpf.be_quiet()
    program = _ebpf.Object(str(reader), "read_cells")
    with writing(program) as written:
        counts = read(program)
        while counts.reads < READS:
            counts = read(program)
        updates = 2 * struct.unpack_from("=Q", written)[0]
    with capsys.disabled():
        print(f"\n{counts.reads:,} reads beside {updates:,} updates, {counts.given_up} given up")
    assert counts.torn == 0
    assert updates > 1000
    assert counts.given_up < counts.reads / 1000


def test_elements_of_a_hash_map_are_torn(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The proof that the test above can fail."""
    _ebpf.be_quiet()
    program = _ebpf.Object(str(reader), "read_hash_map")
    end = time.monotonic() + PATIENCE
    with writing(program) as written:
        counts = read(program)
        while not counts.torn and time.monotonic() < end:
            counts = read(program)
        updates = 2 * struct.unpack_from("=Q", written)[0]
    with capsys.disabled():
        print(f"\nhash map: {counts.torn} of {counts.reads:,} reads torn beside {updates:,} updates")
    assert counts.torn > 0
