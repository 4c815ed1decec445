"""A root daemon keeps what its datapaths need and nothing else, and can still undo everything."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import DevNode, free_port

from kdht.datapath.host import netlink
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until

pytestmark = pytest.mark.root

SECRET = "sixteen bytes or more"
KEPT = {"CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"}
MASK = 1 << 12 | 1 << 39 | 1 << 38


def masks(node: LabNode) -> list[tuple[int, int, int]]:
    """Effective, permitted and bounding set of every thread."""
    found = []
    for task in Path(f"/proc/{node.pid}/task").iterdir():
        fields = dict(
            line.split(":\t") for line in (task / "status").read_text().splitlines() if ":\t" in line
        )
        found.append(tuple(int(fields[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")))
    return found


@pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
def test_every_thread_has_only_what_is_needed(lab: Lab, tmp_path: Path, kind: str) -> None:
    places = places_in(lab, 2)
    lab.let_xdp_send()
    with Cluster(places, tmp_path, datapath=kind) as cluster:
        node = cluster.nodes[1]
        assert set(node.status()["capabilities"]) == KEPT
        assert set(masks(node)) == {(MASK, MASK, MASK)}
        for other in ("ebpf", "socket", "nfqueue", "ebpf"):
            assert node.call("switch", kind=other)["kind"] == other
        assert node.stop() == 0
        assert "Traceback" not in node.log.read_text()
        assert node.host.run(["nft", "list", "tables"]).stdout == ""
        assert node.host.sysctl("net/ipv4/conf/eth0/forwarding") == "0"
        with node.host.enter():
            assert netlink.xdp_of("eth0").program == 0


PREPARED = """
import sys
from types import SimpleNamespace
from kdht.daemon.datapaths import Datapaths
Datapaths.prepare(SimpleNamespace(config=SimpleNamespace(datapath=SimpleNamespace(kind=sys.argv[1]))))
"""


@pytest.mark.parametrize(("kind", "mounted"), [("socket", False), ("nfqueue", True), ("ebpf", True)])
def test_the_bpf_filesystem_is_mounted_before_root_is_dropped(kind: str, mounted: bool) -> None:
    """In a mount namespace of its own, of a host on which nobody has mounted the BPF file system yet."""
    # statfs, not the list of mounts: it may have another one below /sys, which nobody sees.
    seen = "stat -f -c %T /sys/fs/bpf"
    script = f'while umount -l /sys/fs/bpf 2>/dev/null; do :; done; "$0" -c "$1" "$2"; {seen}'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, PREPARED, kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip() == "bpf_fs") == mounted, done.stdout + done.stderr


@pytest.mark.parametrize(("owner", "kept"), [(0, False), (65534, True)], ids=["own", "another user's"])
def test_a_key_file_can_be_read_anew(tmp_path: Path, owner: int, kept: bool) -> None:
    """Root without CAP_DAC_READ_SEARCH cannot read what belongs to others alone; SIGHUP has to."""
    key, listen = tmp_path / "key", f"127.0.0.1:{free_port('127.0.0.1')}"
    key.write_text(SECRET)
    key.chmod(0o600)
    os.chown(key, owner, owner)
    config = tmp_path / "kdhtd.toml"
    config.write_text(
        f'[node]\nlisten = ["{listen}"]\ndata_dir = "{tmp_path}/n"\n[[key]]\nfile = "{key}"\n'
        f'[control]\nsocket = "{tmp_path}/n/control.sock"\n[datapath]\nkind = "socket"\n'
    )
    node = DevNode(tmp_path / "n", listen, config=config)
    try:
        node.wait_ready()
        assert ("CAP_DAC_READ_SEARCH" in node.call("status")["capabilities"]) == kept
        config.write_text(config.read_text().replace("[[key]]", "[[key]]\nepoch = 7"))
        node.process.send_signal(signal.SIGHUP)
        wait_until(lambda: node.call("status")["key_epochs"] == [7], "the keys, read anew")
        code, said = node.end()
    finally:
        node.close()
    assert code == 0, said
