"""The systemd units: systemd finds no fault in them, and rates what they leave to the daemon."""

import re
from pathlib import Path
from shutil import which

import pytest
from daemons import KDHTD, run
from paths import ROOT

from kdht.program import capabilities

UNITS = sorted((ROOT / "contrib/systemd").glob("*.service"))
EXPOSURE = {
    "kdhtd.service": 2.2,
    "kdhtd@.service": 2.2,
    "kdhtd-socket.service": 1.2,
    "kdht-faces.service": 1.5,
}
"""The most that systemd-analyze may give, of 10, for each unit."""
FACES = ROOT / "contrib/systemd/kdht-faces.service"
NODES = [unit for unit in UNITS if unit != FACES]
ROOT_UNITS = [unit for unit in NODES if unit.name != "kdhtd-socket.service"]

needs_systemd = pytest.mark.skipif(not which("systemd-analyze"), reason="needs systemd-analyze")


def settings(unit: Path) -> dict[str, list[str]]:
    """The unit's settings; one may have several values."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def startable(tmp_path: Path) -> list[Path]:
    """The units with a program that exists; the template as an instance too."""
    made = []
    for unit in UNITS:
        for name in {unit.name, unit.name.replace("@", "@one")}:
            made.append(tmp_path / name)
            made[-1].write_text(re.sub(r"/usr/local/bin/[\w-]+", "/bin/true", unit.read_text()))
    return made


@needs_systemd
def test_systemd_finds_no_fault(startable: list[Path]) -> None:
    done = run(["systemd-analyze", "verify", "--man=no", *startable])
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_little_is_exposed(unit: Path, startable: list[Path]) -> None:
    threshold = f"--threshold={EXPOSURE[unit.name] * 10:.0f}"
    at = next(path for path in startable if path.name == unit.name)
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, at])
    (rating,) = re.findall(r"Overall exposure level for .*: \S*?([0-9.]+)", done.stdout)
    print(f"{unit.name}: exposure {rating} of 10")
    assert done.returncode == 0, rating


@pytest.mark.parametrize("unit", ROOT_UNITS, ids=lambda unit: unit.name)
def test_root_keeps_the_capabilities_that_the_daemon_keeps(unit: Path) -> None:
    (bounds,) = settings(unit)["CapabilityBoundingSet"]
    assert set(bounds.split()) == {"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"}
    assert set(bounds.split()) <= set(capabilities.REASONS)


def test_the_units_share_one_sandbox() -> None:
    sandboxes = {unit.read_text().partition("\n# What the daemon may touch")[2] for unit in UNITS}
    assert len(sandboxes) == 1
    assert "ProtectSystem=strict" in sandboxes.pop()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_its_life_is_the_managers(unit: Path) -> None:
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert int(found["WatchdogSec"][0]) > 0
    assert found["RestartPreventExitStatus"] == ["2"]


@pytest.mark.parametrize("unit", NODES, ids=lambda unit: unit.name)
def test_a_node_is_reloaded_and_keeps_its_data(unit: Path) -> None:
    found = settings(unit)
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert found["StateDirectory"][0].startswith("kdht")


def test_faces_have_no_right_but_for_low_ports() -> None:
    found = settings(FACES)
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]
    assert found["DynamicUser"] == ["yes"]
    assert found["ExecStart"] == ["/usr/local/bin/kdht-faces"]


@pytest.mark.parametrize("unit", NODES, ids=lambda unit: unit.name)
def test_the_daemon_knows_its_command(unit: Path) -> None:
    (start,) = settings(unit)["ExecStart"]
    program, *arguments = start.split()
    assert program == "/usr/local/bin/kdhtd"
    known = run([*KDHTD, "--help"]).stdout
    assert [word for word in arguments if word.startswith("--") and word not in known] == []
