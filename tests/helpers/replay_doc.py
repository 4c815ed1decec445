"""docs/replay.md as data: its commands, and what each shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from fences import Fence, fences, shows
from paths import ROOT
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import GRE, Ether
from scapy.layers.vxlan import VXLAN
from scapy.utils import PcapWriter

DOCUMENT = ROOT / "docs/replay.md"
SHORTER = {
    "--count 500000": "--count 500",
    "--rounds 5 --seconds 4": "--rounds 1 --seconds 0.1",
    "--seconds 60": "--seconds 3",
}
"""What would take too long in a test."""


class Step(NamedTuple):
    """A command, and what it shows: None where the document does not tell."""

    command: str
    shown: str | None
    line: int


def steps(*words: str) -> list[Step]:
    """The commands of the blocks with these words behind their language, in their order."""
    return [step for fence in fences(DOCUMENT) if fence.words == words for step in _of(fence)]


def _of(fence: Fence) -> list[Step]:
    if fence.kind == "sh":
        return [Step(line, None, fence.line) for line in fence.text.splitlines()]
    if fence.kind == "console":
        parts = re.split(r"^\$ (.*)\n", fence.text, flags=re.MULTILINE)[1:]
        return [
            Step(command, shown, fence.line) for command, shown in zip(parts[::2], parts[1::2], strict=True)
        ]
    return []


def prepare(home: Path) -> None:
    """The files that the commands name: the table in the document, fixtures, and captures of odd packets."""
    (table,) = [fence.text for fence in fences(DOCUMENT) if fence.kind == "json"]
    (home / "table.json").write_text(json.dumps(json.loads(table)))
    (home / "tests").symlink_to(ROOT / "tests")
    gre, vxlan = Ether() / IP() / GRE() / IP(), Ether() / IP() / UDP(dport=4789) / VXLAN() / Ether() / IP()
    for name, frames in {
        "tunnels.pcap": [gre, vxlan, gre],
        "elsewhere.pcap": [Ether() / IP(dst="10.0.0.77") / UDP(dport=5349) / b"KDHT"],
    }.items():
        with PcapWriter(str(home / name), linktype=1) as file:
            for frame in frames:
                file.write(frame)
    (home / "bin").mkdir()
    program = home / "bin/kdht-replay"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m kdht.replay.main "$@"\n')
    program.chmod(0o755)


def run(step: Step, home: Path, before: int, **environment: str) -> int:
    """Type one command and hold what it prints against the document; its status. `before`: that of the last one."""
    command = step.command
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"(exit {before}); {command}"], cwd=home, env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False,
    )  # fmt: skip
    where = f"docs/replay.md, line {step.line}: {command}: status {done.returncode}: {done.stdout}"
    assert "Traceback" not in done.stdout, where
    if step.shown is None:
        assert done.returncode == 0, where
    else:
        assert shows(step.shown, done.stdout), where
    return done.returncode
