"""What the datapaths ask the kernel, in a process of its own: here what needs no root."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from kdht.datapath.host import children, netlink
from kdht.errors import DatapathError
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
