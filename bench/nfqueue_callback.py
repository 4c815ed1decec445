"""The other side of bench/nfqueue.py: the NetfilterQueue package and a Python callback.

    python bench/nfqueue_callback.py QUEUE MAX_LEN MARK SOURCE TARGET

Gives every IPv4 packet new addresses and TTL 64, puts its header's checksum right, clears the UDP
checksum (IPv4 needs none) and accepts it with a mark. Prints "ready", ends with its input.
"""

import os
import struct
import sys
import threading
from socket import inet_aton

from netfilterqueue import COPY_PACKET, NetfilterQueue, Packet

COPY_RANGE = 1536
BUFFER = 64 << 20
WORDS = struct.Struct("!10H")


def main(queue: int, max_len: int, mark: int, source: str, target: str) -> None:
    addresses = inet_aton(source) + inet_aton(target)

    def readdress(packet: Packet) -> None:
        data = bytearray(packet.get_payload())
        data[8] = 64
        data[10:12] = b"\0\0"
        data[12:20] = addresses
        data[26:28] = b"\0\0"
        total = sum(WORDS.unpack_from(data))
        total = (total & 0xFFFF) + (total >> 16)
        data[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
        packet.set_payload(bytes(data))
        packet.set_mark(mark)
        packet.accept()

    bound = NetfilterQueue()
    bound.bind(queue, readdress, max_len, COPY_PACKET, COPY_RANGE, BUFFER)
    threading.Thread(target=bound.run, daemon=True).start()
    print("ready", flush=True)
    os.read(0, 1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:6])
