"""The fuzzers' corpus through the ordinary build and the oracle; then each fuzzer, for a moment.

Where clang is missing the fuzzers themselves are skipped; in CI that would hide them, so it
is a failure. KDHT_FUZZ_SECONDS says how long each runs (4).
"""

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from builders import make_node
from ci import IN_CI

import fuzz.build
from fuzz import targets
from fuzz.__main__ import CORPUS
from fuzz.__main__ import fuzz as run_fuzzer
from fuzz.targets import message, packet, scene
from kdht.replay import oracle_packets
from kdht.replay.oracle import OracleSettings, SlowNode
from kdht.wire._shared import Reason, Verdict

SECONDS = int(os.environ.get("KDHT_FUZZ_SECONDS", "4"))
MAX_BYTES = 300_000
LEAST_EDGES = {
    "certified": 80,
    "rights": 5,
    "sets": 5,
    "client": 5,
    "dns": 5,
    "tracker": 5,
    "http": -1,
}
"""Of a target with little C; `http` has none."""
LEAST_FEATURES = {"rights": 70, "sets": 5, "tracker": 100, "http": 50}
"""Edges, and the blocks of Python that `branches.py` counts. The corpus of `rights` alone has 83 and more. Those of `sets` and
`http` have not been measured yet; `tracker` had 173 in a short run."""


def corpus(target: str) -> list[bytes]:
    """The committed inputs, and those that the target writes itself."""
    inputs = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    assert inputs, "an empty corpus"
    return inputs + [seed for _, seed in targets.module(target).seeds()]


@pytest.mark.parametrize("target", targets.NAMES)
def test_no_input_of_the_corpus_breaks_an_invariant(target: str) -> None:
    one = targets.module(target).one
    for data in corpus(target):
        one(data)


@pytest.mark.parametrize("target", targets.NAMES)
def test_any_beginning_of_an_input_is_an_input(target: str) -> None:
    module = targets.module(target)
    for _, seed in module.seeds():
        for end in {0, 1, 2, 3, len(seed) // 2, len(seed) - 1}:
            module.one(seed[:end])


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < MAX_BYTES


# --- The oracle on the fuzzers' inputs -----------------------------------------------------------


@pytest.fixture(scope="module")
def oracles() -> list[SlowNode]:
    """The slow node of each node that the targets have."""
    nodes = []
    for number in range(scene.NODES):
        contacts = [contact for bucket in scene.buckets(number).values() for contact in bucket]
        nodes.append(make_node(OracleSettings(**scene.settings(number)), contacts).slow)
    return nodes


def test_the_oracle_agrees_on_the_corpus_of_packets(oracles: list[SlowNode]) -> None:
    reasons = Counter[Reason]()
    for data in filter(None, corpus("packet")):
        number, before = data[0] % scene.NODES, packet.mended(data)
        after = bytearray(before)
        outcome = packet.cores()[number].decide_packet(after, scene.NOW)
        expected = oracle_packets.decide_packet(oracles[number], bytes(before), scene.NOW)
        assert (outcome.reason, bytes(after)) == (expected.reason, expected.data), data.hex()
        reasons[outcome.reason] += 1
    assert {reason.name for reason in reasons} >= {
        "NOT_OURS", "BAD_IP", "FRAGMENT", "IP_OPTIONS", "EXT_HEADER", "NO_CHECKSUM", "FAMILY",
        "ENTERED", "NEXT_HOP", "RELAYED", "OWNER", "CONTROL", "BAD_TAG", "BAD_BODY_TAG",
    }  # fmt: skip


def test_the_oracle_agrees_on_the_corpus_of_messages(oracles: list[SlowNode]) -> None:
    verdicts = Counter[Verdict]()
    for data in corpus("message"):
        if len(data) < 2:
            continue
        number, source, target, before = message.arrival(data)
        after = bytearray(before)
        outcome = message.cores()[number].decide_message(after, source, target, scene.NOW)
        expected = oracles[number].decide_message(bytes(before), source, target, scene.NOW)
        assert (outcome.reason, bytes(after)) == (expected.reason, expected.data), data.hex()
        verdicts[outcome.verdict] += 1
    assert set(verdicts) >= {Verdict.LOCAL, Verdict.FORWARD, Verdict.RELAY, Verdict.DROP}


# --- The fuzzers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def harness() -> Path:
    """The instrumented build. It takes a minute of a processor, and ten minutes beside five other test processes."""
    if lack := fuzz.build.missing():
        (pytest.fail if IN_CI else pytest.skip)(lack)
    return fuzz.build.build()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the build is the first one's
@pytest.mark.parametrize("target", targets.NAMES)
def test_a_short_run_finds_nothing(target: str, harness: Path, tmp_path: Path) -> None:
    out = linked(harness, tmp_path)
    run = run_fuzzer(target, SECONDS, out)
    assert run.finding is None, f"{run.log.read_text(errors='replace')[-4000:]}"
    assert run.executions > len(corpus(target)), "no mutation was tried"
    assert run.edges > LEAST_EDGES.get(target, 300), "no coverage of the C that Cython makes"
    assert run.features > LEAST_FEATURES.get(target, 300), "no coverage of the Python code"


BOUND = "offset + sizeof(udphdr) > packet.end"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_missing_check_of_bounds_is_found(harness: Path, tmp_path: Path) -> None:
    """A parser that forgets that a packet may end before UDP's header; mutation finds it from the seeds alone."""
    source, out = tmp_path / "source", tmp_path / "build"
    for folder in ("kdht", "include"):
        shutil.copytree(fuzz.build.ROOT / folder, source / folder, ignore=shutil.ignore_patterns("*.so"))
    shutil.copytree(harness.parent, out, ignore=shutil.ignore_patterns("corpus", "findings", "logs"))
    pyx = source / "kdht" / "core" / "_packet.pyx"
    text = pyx.read_text()
    assert text.count(BOUND) == 1
    pyx.write_text(text.replace(BOUND, "False").replace("or offset + sizeof(udphdr) + 4 > packet.end", ""))
    fuzz.build.build(out, source)
    run = run_fuzzer("packet", 60, out, committed=tmp_path / "nothing")
    assert run.finding is not None, run
    assert run.executions > len(list(packet.seeds())), "no mutation was needed"
    assert b"AddressSanitizer" in run.log.read_bytes()
    found = subprocess.run(
        [out / "harness", run.finding],
        env=fuzz.build.environment("packet", out),
        capture_output=True,
        check=False,
    )
    assert found.returncode, "the finding cannot be repeated"


def linked(harness: Path, folder: Path) -> Path:
    """A build folder of its own with the same harness, so that runs leave nothing in the shared one."""
    for name in ("harness", "lib"):
        (folder / name).symlink_to(harness.parent / name)
    return folder
