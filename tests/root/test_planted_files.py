"""Files that another user put where root works: root writes to no place that they name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdht.daemon.control import server
from kdht.daemon.control.server import ControlServer
from kdht.daemon.datadir import DataDir
from kdht.datapath.ebpf import xdp_links
from kdht.datapath.host import ledger, sysctl
from kdht.datapath.host.ledger import BOOT_ID, Ledger
from kdht.datapath.host.sysctl import Sysctls
from kdht.errors import ConfigError, DatapathError, StorageError
from kdht.lab.netns import Lab

pytestmark = pytest.mark.root

NOBODY = 65534
FORWARDING = "ipv4/conf/eth0/forwarding"


def plant(directory: Path, entries: dict[str, list[str]]) -> Path:
    """A ledger as a crashed node leaves it: nobody holds its entries."""
    whole = {"boot": BOOT_ID.read_text().strip(), "entries": entries, "holders": {}}
    path = directory / f"sysctl-{ledger.netns_cookie():x}.json"
    path.write_text(json.dumps(whole))
    return path


def apply_in(lab: Lab, directory: Path, entries: dict[str, list[str]]) -> None:
    host = lab.host("node", ipv4="10.22.0.1/24")
    with host.enter():
        plant(directory, entries)
        Sysctls(["eth0"], runtime_dir=directory).apply()


@pytest.mark.parametrize("form", ["relative", "absolute", "conf", "name", "witness"])
def test_a_planted_ledger_writes_no_file_of_its_own_choice(lab: Lab, tmp_path: Path, form: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("was")
    os.chown(victim, NOBODY, NOBODY)
    victim_path = {
        "relative": f"../../..{victim}",
        "absolute": str(victim),
        "conf": f"ipv4/conf/../../../../..{victim}",
        "name": f"ipv4/conf/../../../../..{victim}/forwarding",
        "witness": FORWARDING,
    }[form]
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    witness = [str(victim), "was"] if form == "witness" else ["", ""]
    with pytest.raises(DatapathError, match=r"is damaged \(.*is no sysctl of kdht's\)"):
        apply_in(lab, runtime, {victim_path: ["evil", "was", *witness]})
    assert victim.read_text() == "was"


@pytest.mark.parametrize("known", ["ipv4/ip_forward", "ipv4/conf/eth0/route_localnet", "core/bpf_jit_enable"])
def test_a_planted_ledger_changes_no_other_sysctl(lab: Lab, tmp_path: Path, known: str) -> None:
    with pytest.raises(DatapathError, match="is no sysctl of kdht's"):
        apply_in(lab, tmp_path, {known: ["1", "0", "", ""]})


@pytest.mark.parametrize("value", ["evil", "1\n1", "9" * 5000])
def test_a_planted_value_is_a_small_number(lab: Lab, tmp_path: Path, value: str) -> None:
    with pytest.raises(DatapathError, match=f"is no value of {FORWARDING}"):
        apply_in(lab, tmp_path, {FORWARDING: [value, "0", "", ""]})


def test_a_link_at_the_name_of_the_new_ledger_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("was")
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    host = lab.host("node", ipv4="10.22.0.1/24")
    with host.enter():
        name = f"sysctl-{ledger.netns_cookie():x}"
        (runtime / f"{name}.new").symlink_to(victim)
        sysctls = Sysctls(["eth0"], runtime_dir=runtime)
        sysctls.apply()
        sysctls.restore()
    assert victim.read_text() == "was"


@pytest.mark.parametrize("kind", ["link", "pipe", "deep", "binary"])
def test_a_ledger_of_another_form_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = plant(tmp_path, {})
    if kind in ("deep", "binary"):
        path.write_bytes(b"[" * 200_000 if kind == "deep" else b"\xff\x00")
    elif kind == "link":
        # To a sound one, so that only the link is wrong.
        path.symlink_to(path.rename(tmp_path / "elsewhere"))
    else:
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(DatapathError, match=r"damaged|cannot keep"), Ledger(tmp_path):
        pass


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_runtime_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    runtime.chmod(mode)
    with pytest.raises(DatapathError, match="another user may write there"), Ledger(runtime):
        pass


def test_a_runtime_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    os.chown(runtime, NOBODY, NOBODY)
    with pytest.raises(DatapathError, match="another user may write there"), Ledger(runtime):
        pass


def test_the_ledger_is_not_in_the_directory_of_the_control_socket() -> None:
    from kdht.config.places import SOCKET

    assert SOCKET.parent != sysctl.RUNTIME_DIR


def test_no_path_out_of_the_sysctls_is_read_or_written(tmp_path: Path) -> None:
    for path in ("../../../etc/hostname", "/etc/hostname", "ipv4/conf/../../../../etc/hostname"):
        assert sysctl.read(path) is None
        with pytest.raises(DatapathError, match="no sysctl that kdht may change"):
            sysctl.write(path, "1")


# --- The other files that root writes ----------------------------------------------------


def test_a_symlink_for_the_control_socket_changes_no_mode(tmp_path: Path, monkeypatch) -> None:
    """Its directory may belong to the user of an earlier node."""
    victim = tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    real_umask = os.umask

    def swap(mask: int) -> int:
        path = tmp_path / "kdhtd.sock"
        if path.exists():  # bound: now the other user is quick
            path.unlink()
            path.symlink_to(victim)
        return real_umask(mask)

    monkeypatch.setattr(server.os, "umask", swap)
    with pytest.raises(ConfigError, match="control socket"):
        server._listen(tmp_path / "kdhtd.sock", None)
    assert victim.stat().st_mode & 0o777 == 0o600
    assert ControlServer is not None


@pytest.mark.parametrize("name", ["lock", "records", "records/LOG"])
def test_a_link_in_a_data_directory_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("was")
    data = tmp_path / "data"
    (data / "records").mkdir(parents=True)
    if name == "records":
        (data / name).rmdir()
    (data / name).symlink_to(victim)
    os.chown(data, NOBODY, NOBODY)
    with pytest.raises(StorageError, match="a link or no plain file"):
        DataDir.open(data)
    assert victim.read_text() == "was"


def test_a_hard_link_in_another_users_data_directory_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("was")
    data = tmp_path / "data"
    data.mkdir()
    os.link(victim, data / "lock")
    os.chown(data, NOBODY, NOBODY)
    with pytest.raises(StorageError, match="a link or no plain file"):
        DataDir.open(data)
    assert victim.read_text() == "was"


def test_maps_in_a_directory_of_another_user_are_not_taken(tmp_path: Path) -> None:
    pins = tmp_path / "kdht-00"
    pins.mkdir(mode=0o700)
    xdp_links.make_own(pins)
    os.chown(pins, NOBODY, NOBODY)
    with pytest.raises(DatapathError, match="no directory of this user alone"):
        xdp_links.make_own(pins)


def test_a_dump_follows_no_link(tmp_path: Path) -> None:
    victim, output = tmp_path / "victim", tmp_path / "out.jsonl"
    victim.write_text("")
    (tmp_path / "keys").write_text("a\n")
    output.with_name("out.jsonl.part").symlink_to(victim)
    command = [
        sys.executable,
        "-m",
        "kdht.cli.main",
        "dump",
        "keys",
        "-o",
        str(output),
        "--node",
        "127.0.0.1:9",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "out.jsonl.part" in done.stderr
