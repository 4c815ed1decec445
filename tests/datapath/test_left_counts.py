"""Which of the XDP program's packets count as lost."""

import pytest

from kdht.datapath.ebpf.left import LeftCounts
from kdht.datapath.host import links
from kdht.datapath.host.links import Sent


@pytest.mark.parametrize(
    ("verdicts", "local", "sent", "dropped", "lost"),
    [
        (100, 30, 130, 0, 0),
        (100, 30, 30, 0, 0),  # a driver that does not count what a program sends
        (100, 30, 130, 50, 0),  # another's packets were dropped
        (100, 30, 90, 50, 40),
        (100, 30, 90, 30, 30),
        (100, 0, 60, -30, 0),  # the interface was made again
    ],
)
def test_a_packet_is_lost_if_it_is_missing_and_one_was_dropped(verdicts, local, sent, dropped, lost):
    counts = LeftCounts()
    assert counts.departed(7, Sent(1000, 50, 500)) == (7, 7)
    assert counts.departed(7 + verdicts, Sent(1000 + sent, 50 + dropped, 500 + local)) == (
        7 + verdicts,
        7 + verdicts - lost,
    )


def test_losses_add_up():
    counts = LeftCounts()
    for number in range(4):
        departed = counts.departed(10 * number, Sent(0, 2 * number, 0))
    assert departed == (30, 24)


def test_only_the_named_interfaces_count(tmp_path, monkeypatch):
    (tmp_path / "dev").write_text(
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
        "    lo:       1       2    3    4    0     0          0         0        9       8    7    6    0     0       0          0\n"
        "  eth0:   64829     341    1    2    0     0          0         0    61361     324    3    4    0     0       0          0\n"
        " eth0.7:      1       1    1    1    0     0          0         0        1       1    1    1    0     0       0          0\n"
    )
    (tmp_path / "snmp").write_text("Ip: Forwarding OutRequests\nIp: 2 100\nUdp: OutDatagrams\nUdp: 7\n")
    monkeypatch.setattr(links, "_NET", tmp_path)
    assert links.sent(["eth0"]) == Sent(324, 10, 92)
    (tmp_path / "snmp6").write_text("Ip6InReceives  5\nIp6OutRequests  10\n")
    assert links.sent(["eth1"]) == Sent(0, 0, 102)
