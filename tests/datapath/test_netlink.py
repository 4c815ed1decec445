"""What the datapaths ask the kernel, in a process of its own: here what needs no root."""

import os
import signal
import struct
import subprocess
import sys
import threading

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from kdht.datapath.host import children, netlink, rtnetlink
from kdht.errors import DatapathError
from kdht.lab.netns import Lab
from kdht.lab.wait import wait_until
from kdht.wire import Address


def worker() -> "subprocess.Popen[str] | None":
    return netlink._worker._process


def test_facts_of_the_loopback_interface():
    assert netlink.mtu_of("lo") > 1280
    assert "127.0.0.1" in netlink.hosts_of("lo")
    assert netlink.xdp_of("lo") == ("", 0)
    assert netlink.interfaces_of([Address.of("127.0.0.1", 1)]) == []


def test_an_interface_that_is_not_there():
    assert netlink.mtu_of("no-such") is None
    assert netlink.hosts_of("no-such") == set()
    assert netlink.xdp_of("no-such") == ("", 0)


def test_one_process_answers_all_threads_and_ends_when_idle(monkeypatch):
    monkeypatch.setattr(netlink, "IDLE", 0.2)
    netlink.mtu_of("lo")
    asked = worker()
    found: list[int | None] = []
    threads = [threading.Thread(target=lambda: found.append(netlink.mtu_of("lo"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found)), worker()) == (8, 1, asked)
    wait_until(lambda: worker() is None, "the process to end")
    assert asked.wait(10) == 0


def test_after_its_death_another_one_answers():
    netlink.mtu_of("lo")
    os.kill(worker().pid, signal.SIGKILL)
    worker().wait()
    assert netlink.mtu_of("lo")


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('no JSON')\nraise SystemExit(3)"])
def test_a_worker_that_cannot_work_is_reported(monkeypatch, code):
    netlink._worker._end()
    monkeypatch.setattr(children, "command", lambda module: [sys.executable, "-c", code])
    with pytest.raises(DatapathError, match="status 3"):
        netlink.mtu_of("lo")
    assert worker() is None


def test_facts_are_pyroute2s():
    """The same interfaces and addresses, of this network."""
    with IPRoute() as route:
        links = [
            (link["index"], link.get("ifname"), link.get("mtu"), link.get("link") or 0)
            for link in route.get_links()
        ]
        hosts = [(each["index"], each.get("local") or each.get("address")) for each in route.get_addr()]
    assert [link[:4] for link in rtnetlink.links()] == links
    assert rtnetlink.addresses() == hosts


@pytest.mark.root
def test_xdp_programs_and_point_to_point_addresses_are_pyroute2s(lab: Lab):
    host = lab.host("h", ipv4="10.53.48.1/24", ipv6="fd53:48::1/64")
    host.run(["ip", "addr", "add", "10.9.9.1", "peer", "10.9.9.2/32", "dev", "eth0"])
    lab.let_xdp_send()
    with host.enter():
        test_facts_are_pyroute2s()
        assert "10.9.9.1" in netlink.hosts_of("eth0")
        assert "10.9.9.2" not in netlink.hosts_of("eth0")
    with lab.bridge.enter():
        ports = {link.name: link for link in rtnetlink.links() if link.xdp_attached}
        with IPRoute() as route:
            there = {link.get("ifname"): link.get_attr("IFLA_XDP") for link in route.get_links()}
        for name, link in ports.items():
            assert there[name].get_attr("IFLA_XDP_PROG_ID") == link.xdp_program > 0
            assert netlink.xdp_of(name) == ("native", link.xdp_program)
    assert ports


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def test_a_vlan_is_read_as_pyroute2_reads_it():
    """Of a message, because not every kernel has VLANs: number 7 on the interface 3."""
    data = attribute(rtnetlink.IFLA_VLAN_ID, struct.pack("=H", 7))
    info = attribute(rtnetlink.IFLA_INFO_KIND, b"vlan\0") + attribute(rtnetlink.IFLA_INFO_DATA, data)
    body = rtnetlink.LINK.pack(0, 1, 9, 0x1043, 0) + b"".join(
        attribute(kind, value)
        for kind, value in (
            (rtnetlink.IFLA_IFNAME, b"v7\0"),
            (rtnetlink.IFLA_MTU, struct.pack("=I", 1500)),
            (rtnetlink.IFLA_LINK, struct.pack("=I", 3)),
            (rtnetlink.IFLA_LINKINFO | 0x8000, info),
        )
    )
    oracle = ifinfmsg(struct.pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body)
    oracle.decode()
    told = oracle.get_attr("IFLA_LINKINFO")
    assert told.get_attr("IFLA_INFO_KIND") == "vlan"
    number = told.get_attr("IFLA_INFO_DATA").get_attr("IFLA_VLAN_ID")
    mtu, lower = oracle.get_attr("IFLA_MTU"), oracle.get_attr("IFLA_LINK")
    expected = (oracle["index"], oracle.get_attr("IFLA_IFNAME"), mtu, lower, 0, 0, number)
    assert rtnetlink._link(body) == expected == (9, "v7", 1500, 3, 0, 0, 7)


def test_a_refusal_of_the_kernel_is_an_error():
    with pytest.raises(OSError, match=r"supported|Invalid"):
        rtnetlink._dump(0x7FFF, rtnetlink.LINK.pack(0, 0, 0, 0, 0))


def test_a_list_that_changes_is_read_again(monkeypatch):
    """Reads that the kernel marks as interrupted, then a whole one."""
    reads = iter([([b"half"], False), ([b"a", b"b"], True)])
    monkeypatch.setattr(rtnetlink, "_read", lambda kind, question: next(reads))
    assert rtnetlink._dump(rtnetlink.GET_LINK, b"") == [b"a", b"b"]


def test_the_caller_imports_no_pyroute2():
    code = "import sys; from kdht.datapath.host import netlink; netlink.mtu_of('lo'); print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_child_processes_import_this_package(tmp_path):
    (tmp_path / "kdht").mkdir()
    (tmp_path / "kdht" / "__init__.py").write_text("raise SystemExit('another kdht')")
    done = subprocess.run(
        children.command("kdht.datapath.host.netlink_worker"),
        env=children.environment(),
        cwd=tmp_path,
        input='["mtu_of", "lo"]\n',
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"value": ' in done.stdout


def test_a_worker_whose_daemon_was_killed_ends_without_a_word():
    command = [sys.executable, "-m", "kdht.datapath.host.netlink_worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as worker:
        worker.stdout.close()
        worker.stdin.write('["all_hosts"]\n')
        worker.stdin.flush()
        assert worker.wait(30) == 0
        assert worker.stderr.read() == ""
