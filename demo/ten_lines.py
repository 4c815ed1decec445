"""Reads values with the ten-line client of docs/protocol.md, as it stands there.

It runs in a Python of its own without site packages, so that it can import nothing but the
standard library: that is what "no DHT logic in the client" means.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from demo.dataset import Package
from demo.stage import Stage
from demo.traffic import Advance, Pass
from kdht.errors import LabError
from kdht.lab.cluster import LabNode
from kdht.wire import hash_key

PROTOCOL = Path(__file__).parents[1] / "docs/protocol.md"
SAMPLE = 10
TIMEOUT = 60.0

HARNESS = """
import sys
for line in sys.stdin:
    key, host, port = line.split()
    try:
        value = get(bytes.fromhex(key), host, int(port))
    except TimeoutError:
        value = b"no answer"
    print("-" if value is None else value.hex())
"""


def sample(entries: Sequence[Package], count: int = SAMPLE) -> list[Package]:
    """`count` entries evenly over all, or all if there are fewer."""
    return list(entries[:: max(len(entries) // count, 1)])[:count]


def source() -> str:
    """The client's text. Raises LabError if the document does not have it any more."""
    found = re.search(r"<!-- ten-line-get -->\n```python\n(.*?)```", PROTOCOL.read_text(), re.DOTALL)
    if not found:
        raise LabError(f"{PROTOCOL}: the ten-line client is not there")
    return found[1]


def read(stage: Stage, entries: Sequence[Package], advance: Advance) -> Pass:
    """Get the entries through one node after the other, and compare."""
    nodes = [stage.nodes[number % len(stage.nodes)] for number in range(len(entries))]
    asked = "".join(_line(entry, node) for entry, node in zip(entries, nodes, strict=True))
    started = time.perf_counter()
    with stage.as_client():
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", source() + HARNESS],
            input=asked,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    if done.returncode != 0:
        raise LabError(f"the ten-line client failed: {done.stderr.strip()}")
    answers = done.stdout.split()
    result = Pass(len(entries), done=len(answers), seconds=time.perf_counter() - started)
    for entry, answer in zip(entries, answers, strict=False):
        advance()
        if answer != entry.value.hex():
            result.failures.append(f"{entry.name}: not the value that was put")
    return result


def _line(entry: Package, node: LabNode) -> str:
    return f"{hash_key(entry.name).hex()} {node.address.host} {node.address.port}\n"
