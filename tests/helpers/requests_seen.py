"""The requests that clients sent, as a host's network sees them, and whether each byte of them is as it must be."""

import socket
import threading
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, Self

from kdht.lab.netns import Host
from kdht.wire import parse
from kdht.wire._shared import PORT, TRY_BITS, Flag, Op
from kdht.wire.rights import GRANT, NEEDED, PROOF, Grant, Token, is_mac_right, scoped_key, split_proof

ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800
OUTGOING = 4
UDP = 17
WRITES = {Op.PUT, Op.DELETE, Op.ANNOUNCE, Op.WITHDRAW}


class Sniffer:
    """Keeps the requests that leave a host, in their order, while the block runs."""

    def __init__(self, host: Host) -> None:
        self.requests: list[bytes] = []
        self._ending = threading.Event()
        with host.enter():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("eth0", ETH_P_ALL))  # what goes out is shown to those alone who want all
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ending.is_set():
            try:
                packet, (_, protocol, kind, _, _) = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            if protocol != ETH_P_IP:
                continue
            begin = (packet[0] & 15) * 4
            if (
                kind == OUTGOING
                and packet[9] == UDP
                and int.from_bytes(packet[begin + 2 : begin + 4], "big") == PORT
            ):
                self.requests.append(packet[begin + 8 :])


class Seen(NamedTuple):
    """A proven request's datagram. `rest`: all bytes that its tries share."""

    op: Op
    number: int
    attempt: int
    seq: int
    rest: bytes


def check(requests: list[bytes], tokens: Mapping[int, Token]) -> dict[int, list[int]]:
    """The attempts of each token's holder; requests with other tokens are left out. Raises AssertionError for a byte that must not be so."""
    by_request: dict[tuple[int, int], list[Seen]] = defaultdict(list)
    attempts: dict[int, list[int]] = defaultdict(list)
    for data in requests:
        if (
            not data[6] & Flag.PROVEN
            or Grant.parse(data[-PROOF.size : -PROOF.size + GRANT.size]).holder not in tokens
        ):
            continue
        holder, seen = _parsed(data, tokens)
        by_request[holder, int.from_bytes(data[8:16], "big") >> TRY_BITS].append(seen)
        attempts[holder].append(seen.attempt)
    for (holder, number), tries in by_request.items():
        what = f"request {number:x} of holder {holder:x}"
        assert [each.number for each in tries] == list(range(len(tries))), what
        assert tries[0].attempt == 0, what
        for before, after in pairwise(tries):
            assert after.attempt in {before.attempt, before.attempt + 1, 0, 1}, what
            assert (after.op, after.rest) == (before.op, before.rest), what
            assert after.seq >= before.seq, what
    return attempts


def _parsed(data: bytes, tokens: Mapping[int, Token]) -> tuple[int, Seen]:
    message = parse(data)
    assert message.flags == Flag.PROVEN
    body, proof = split_proof(message.body)
    grant = Grant.parse(proof.grant)
    token = tokens[grant.holder]
    assert (grant, message.key) == (token.grant, scoped_key(proof.inner, grant.scope))
    assert is_mac_right(proof, token.key, message.op, message.key, body)
    assert message.op in NEEDED
    # Fields of others are zero: status, time to entry port, reserved, tags.
    assert not any(data[7:8] + data[37:38] + data[40:82] + data[84:88] + data[96:112])
    is_write = message.op in WRITES
    assert not is_write or int.from_bytes(body[:8], "big") == proof.seq
    rest = (
        data[:8] + data[16:36] + data[38:88] + bytes(body[8:] if is_write else body) + data[-PROOF.size : -20]
    )
    number = message.request_id & ((1 << TRY_BITS) - 1)
    return grant.holder, Seen(message.op, number, message.attempt, proof.seq, rest)
