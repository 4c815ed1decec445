"""What nodes send each other as records and may not be: counted by reason, dropped, never stored."""

import pytest
from replica_cluster import Cluster, key_of

from kdht.datapath.base import Outgoing
from kdht.errors import BadPacket
from kdht.node.messages import CONTROL_HOPS
from kdht.node.replicas.calls import seal_as_sender
from kdht.node.replicas.quorum_reads import untrusted_stored
from kdht.storage import StoredRecord
from kdht.wire import RECORD, pack_request
from kdht.wire._shared import Op, RecordFlag

KEY = key_of("a")
BAD = {
    "nothing": (b"", "TRUNCATED"),
    "half a head": (bytes(15), "TRUNCATED"),
    "no version": (RECORD.pack(0, 0, 0) + b"value", "BAD_LENGTH"),
    "a tombstone with a value": (RECORD.pack(7, 9, RecordFlag.TOMBSTONE) + b"v", "BAD_LENGTH"),
    "a condition": (RECORD.pack(7, 9, RecordFlag.IF_VERSION) + b"value", "BAD_FLAGS"),
    "a tombstone with a condition": (RECORD.pack(7, 9, 3), "BAD_FLAGS"),
    "a version without its certificate": (RECORD.pack(1 << 63, 9, 0) + b"value", "UNCERTIFIED"),
    "a certificate's flag without the version": (
        RECORD.pack(7, 9, RecordFlag.IMMUTABLE) + b"value",
        "UNCERTIFIED",
    ),
    "the length of a salt alone": (RECORD.pack(7, 9, 0x100) + b"value", "BAD_FLAGS"),
    "an unknown flag": (RECORD.pack(7, 9, 8) + b"value", "BAD_FLAGS"),
    "an unknown high flag": (RECORD.pack(7, 9, 1 << 31), "BAD_FLAGS"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_record_is_a_bad_packet(what):
    body, reason = BAD[what]
    with pytest.raises(BadPacket) as caught:
        untrusted_stored(KEY, body)
    assert caught.value.reason == reason


def test_values_and_tombstones_are_valid():
    assert untrusted_stored(KEY, RECORD.pack(7, 9, 0) + b"value") == StoredRecord(7, 9, 0, b"value")
    assert untrusted_stored(KEY, RECORD.pack(7, 9, 2)) == StoredRecord(7, 9, 2, b"")


@pytest.mark.parametrize("what", BAD)
def test_a_store_of_a_bad_record_changes_nothing(what):
    body, reason = BAD[what]
    cluster = Cluster(2)
    sender, receiver = cluster.members
    request = pack_request(Op.STORE, key_of("a"), 1, body, hops=CONTROL_HOPS)
    seal_as_sender(sender.core, request, sender.contact.address, sender.now)
    target = receiver.contact.address
    sender.transport.send([Outgoing(bytes(request), target, sender.contact.address)])
    cluster.network.run(cluster.network.now + 1)
    assert receiver.coordinator.counters["stores_uncertified" if reason == "UNCERTIFIED" else reason] == 1
    assert receiver.has("a") is None
    assert sender.coordinator.counters["calls_unmatched"] == 0, "it is not answered"
