"""The XDP program in the kernel's test-run call: no interface, no neighbours, a fixed clock."""

import struct
from typing import NamedTuple

from builders import NOW, Node

from kdht._routing import Core
from kdht.datapath.ebpf import _ebpf
from kdht.datapath.ebpf.networks import Network
from kdht.datapath.ebpf.program import OBJECT, PROGRAM
from kdht.wire import _shared as shared
from kdht.wire._shared import VERDICT_OF, Reason, Verdict

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
ACTIONS = {
    Verdict.PASS: XDP_PASS,
    Verdict.LOCAL: XDP_PASS,
    Verdict.FORWARD: XDP_TX,
    Verdict.RELAY: XDP_TX,
    Verdict.DROP: XDP_DROP,
}
MAC = bytes.fromhex("020000000001")
ETHERNET = MAC + bytes.fromhex("020000000002")
VLANS = (0, 5, 0xFFF)
NETWORKS = [Network(1, 1, vlan, MAC, generic=False) for vlan in (None, *VLANS)]
"""In a test run frames come in at lo."""
WHOLE = "kdht_xdp_whole"
TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}


class Run(NamedTuple):
    """What the program made of one frame."""

    reason: Reason
    action: int
    data: bytes


class Program:
    """One loaded program with its maps, for one node after the other."""

    def __init__(self) -> None:
        _ebpf.be_quiet()
        self.object = _ebpf.Object(str(OBJECT), PROGRAM)
        self._published: set[int] = set()
        self.settings = {"now": NOW, "flags": _ebpf.FIXED_TIME | _ebpf.TEST_RUN}
        self._publish_state(bytes(len(Core().raw_config())))

    def publish(self, node: Node) -> None:
        """Everything of this node, and nothing of the one before."""
        filled = {index for index in range(shared.ID_BITS) if node.core.bucket(index)}
        for index in self._published - filled:
            self.object.write_bucket(index, bytes(len(node.core.raw_bucket(index))))
        for index in filled:
            self.publish_bucket(node, index)
        self._published = filled
        self.publish_config(node)

    def publish_bucket(self, node: Node, index: int) -> None:
        self.object.write_bucket(index, node.core.raw_bucket(index))
        self._published.add(index)

    def publish_config(self, node: Node) -> None:
        prefixes = [(struct.pack("=I16s", bits, ip), rights) for ip, bits, rights in node.core.prefixes()]
        self.object.update_trie("kdht_prefixes", prefixes)
        self._publish_state(node.core.raw_config())

    def _publish_state(self, config: bytes) -> None:
        self.object.update_whole("kdht_states", _ebpf.state(config, NETWORKS, **self.settings))

    def run(self, frame: bytes, program: str = "") -> Run:
        """`program`: "" for the attached one, with its fast path; WHOLE for the other, which takes every frame."""
        result, data, _ = self.object.test_run(frame, program=program)
        return Run(Reason(result >> 8), result & 0xFF, data)

    def counters(self) -> dict[Reason, int]:
        return dict(zip(Reason, self.object.per_cpu("kdht_counters", len(Reason)), strict=True))


def link_header(version: int, vlan: int | None = None, tag: bytes = b"\x81\x00") -> bytes:
    """Ethernet around an IP packet of that version, with a VLAN tag if a number is given."""
    between = b"" if vlan is None else tag + struct.pack(">H", vlan)
    return ETHERNET + between + TYPES[version]


def action_of(reason: Reason) -> int:
    return ACTIONS[VERDICT_OF[reason]]
