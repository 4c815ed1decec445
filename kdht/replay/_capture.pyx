# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""Cuts capture files into packets: pcap and pcapng, a batch at a time.

Contract: a Splitter is fed the file's bytes in order and keeps nothing of them but the
interfaces' link types and clocks, so memory does not depend on the file's length. What the
file promises is checked before it is believed; ValueError says what is wrong, and where.
Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from kdht.replay._links cimport NOT_IP, be16, be32, ip_version_behind, tunnel_of

from collections import namedtuple

MAX_RECORD = 1 << 24
"""Bytes of one record or block; a larger one is a damaged file."""
MAX_PACKETS = 16384
"""Packets of one batch."""
MAX_INTERFACES = 65536

cdef enum:
    NANOSECONDS = 1000000000
    SECTION = 0x0A0D0D0A
    BYTE_ORDER = 0x1A2B3C4D
    INTERFACE = 1
    OLD_PACKET = 2
    SIMPLE_PACKET = 3
    ENHANCED_PACKET = 6
    OPTION_TSRESOL = 9
    OPTION_TSOFFSET = 14

cdef uint32_t MICRO_MAGIC = 0xA1B2C3D4, NANO_MAGIC = 0xA1B23C4D

SKIPPED = ("", "MPLS", "PPPoE", "GRE", "VXLAN", "Geneve", "IP in IP", "not IP")
"""What was not looked into: frames without IP, and the packets inside tunnels."""

Frame = namedtuple("Frame", "number offset nanos link captured original is_ip")


# --- Where IP begins ------------------------------------------------------------------

cdef void _find_ip(const uint8_t *data, Slot *slot) noexcept nogil:
    cdef uint32_t skip = 0
    cdef int version
    slot.at, slot.length, slot.skipped = slot.frame, 0, NOT_IP
    version = ip_version_behind(slot.link, data + slot.frame, slot.captured, &skip, &slot.skipped)
    slot.foreign = version < 0
    if (version == 4 or version == 6) and slot.captured > skip and data[slot.frame + skip] >> 4 == version:
        _begin(data, slot, skip)


cdef void _begin(const uint8_t *data, Slot *slot, uint32_t skip) noexcept nogil:
    """IP begins after `skip` bytes."""
    slot.at, slot.length = slot.frame + skip, slot.captured - skip
    slot.skipped = tunnel_of(data + slot.at, slot.length)


# --- Batches --------------------------------------------------------------------------------

cdef class Batch:
    """Packets that follow each other in a capture; `first` is the number of the first, from 1."""

    def __cinit__(self, bytes data, uint64_t first):
        self.data, self.first = data, first

    def __dealloc__(self):
        free(self.slots)

    @classmethod
    def of(cls, packets, times, uint64_t first=1, offsets=None):
        """Whole IP packets with their times in nanoseconds; `offsets`: in the file that they came from."""
        cdef Batch batch = cls(b"".join([bytes(packet) for packet in packets]), first)
        cdef const uint8_t *data = batch.data
        cdef uint32_t at = 0
        cdef Slot *slot
        for index, packet in enumerate(packets):
            slot = batch._add()
            slot.nanos, slot.link, slot.offset = times[index], 101, offsets[index] if offsets else 0
            slot.frame, slot.captured, slot.original = at, <uint32_t>len(packet), <uint32_t>len(packet)
            _find_ip(data, slot)
            at += <uint32_t>len(packet)
        return batch

    cdef Slot *_add(self) except NULL:
        cdef Slot *more
        if self.count == self.room:
            self.room = max(64, 2 * self.room)
            more = <Slot *>realloc(self.slots, self.room * sizeof(Slot))
            if more is NULL:
                raise MemoryError
            self.slots = more
        self.count += 1
        return &self.slots[self.count - 1]

    cdef Slot *_slot(self, Py_ssize_t index) except NULL:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return &self.slots[index]

    def __len__(self):
        return self.count

    def frame(self, Py_ssize_t index):
        """What the capture tells of a packet."""
        cdef Slot *slot = self._slot(index)
        return Frame(self.first + index, slot.offset, slot.nanos, slot.link, slot.captured,
                     slot.original, slot.length > 0)

    def link_layer(self, Py_ssize_t index) -> bytes:
        """The packet as it was captured."""
        cdef Slot *slot = self._slot(index)
        return self.data[slot.frame:slot.frame + slot.captured]

    def packet(self, Py_ssize_t index) -> bytes:
        """From its IP header on; nothing if there is none."""
        cdef Slot *slot = self._slot(index)
        return self.data[slot.at:slot.at + slot.length]

    def foreign(self) -> list:
        """The packets whose link type only scapy reads."""
        cdef uint32_t i
        return [i for i in range(self.count) if self.slots[i].foreign]

    def place(self, Py_ssize_t index, uint32_t skip) -> None:
        """Say where IP begins in a foreign packet: after `skip` bytes."""
        cdef Slot *slot = self._slot(index)
        if skip < slot.captured:
            _begin(<const uint8_t *>self.data, slot, skip)

    def cut_short(self) -> int:
        """How many packets the capture has only the beginning of."""
        cdef uint32_t i, total = 0
        for i in range(self.count):
            total += self.slots[i].original > self.slots[i].captured
        return total

    def skipped(self) -> dict:
        """How many packets were not looked into, or not wholly, by kind (SKIPPED)."""
        cdef uint32_t i
        cdef uint64_t[8] counts
        for i in range(8):
            counts[i] = 0
        for i in range(self.count):
            counts[self.slots[i].skipped] += 1
        return {SKIPPED[i]: counts[i] for i in range(1, 8) if counts[i]}

    def same_second(self, uint32_t begin) -> int:
        """The end of the packets from `begin` on that were captured in one second."""
        cdef uint32_t i = begin
        while i < self.count and self.slots[i].nanos // NANOSECONDS == self.slots[begin].nanos // NANOSECONDS:
            i += 1
        return i


# --- Files ------------------------------------------------------------------------------------

cdef struct Clock:
    # One pcapng interface: its link type, and how its time stamps count.
    uint16_t link
    uint64_t per_second
    int64_t offset


cdef class Splitter:
    """One file's format; `split` takes its bytes. Raises ValueError for what is no capture."""

    cdef bint swapped, pcapng
    cdef uint16_t link
    cdef uint64_t per_second
    cdef list interfaces
    cdef uint64_t offset, packets

    def __init__(self):
        self.interfaces = []

    cdef inline uint32_t _u32(self, const uint8_t *at) noexcept nogil:
        cdef uint32_t value
        memcpy(&value, at, 4)
        return be32(at) if self.swapped else value

    cdef inline uint16_t _u16(self, const uint8_t *at) noexcept nogil:
        return <uint16_t>(be16(at) if self.swapped else at[0] | at[1] << 8)

    def open(self, bytes start) -> int:
        """The bytes of the file's header, of at least its first 24; ValueError if it is no capture."""
        cdef const uint8_t *data = start
        cdef uint32_t magic
        if len(start) < 24:
            raise ValueError(f"no capture: {len(start)} bytes, a pcap header alone has 24")
        for self.swapped in (False, True):
            magic = self._u32(data)
            if magic == SECTION:
                self.pcapng = True
                return 0
            if magic == MICRO_MAGIC or magic == NANO_MAGIC:
                self.link = <uint16_t>self._u32(data + 20)
                self.per_second = NANOSECONDS if magic == NANO_MAGIC else 1000000
                if self._u16(data + 4) != 2:
                    raise ValueError(f"pcap version {self._u16(data + 4)}, only 2 is known")
                self.offset = 24
                return 24
        raise ValueError(f"no capture: {start[:4].hex()} is no magic number of pcap or pcapng")

    def split(self, bytes data):
        """The whole packets of `data`, or as many as a batch takes.

        Gives (batch, bytes used, bytes that the next needs).
        """
        cdef Batch batch = Batch(data, self.packets + 1)
        cdef uint64_t used = 0, needs = 0, begin = self.offset
        while batch.count < <uint32_t>MAX_PACKETS:
            self.offset = begin + used
            try:
                needs = self._block(batch, used) if self.pcapng else self._record(batch, used)
            except ValueError as error:
                if not batch.count:
                    raise ValueError(f"offset {self.offset:,}: {error}") from None
                needs = 1  # what came before goes out first; the next call meets the damage again
                break
            if used + needs > <uint64_t>len(data):
                break
            used += needs
        self.offset = begin + used
        self.packets += batch.count
        return batch, used, needs

    # pcap

    cdef uint64_t _record(self, Batch batch, uint64_t at) except 0:
        """One record, if it is whole; the bytes it takes."""
        cdef const uint8_t *data = batch.data
        cdef uint64_t left = <uint64_t>len(batch.data) - at
        cdef const uint8_t *record = data + at
        cdef uint32_t captured
        cdef Slot *slot
        if left < 16:
            return 16
        captured = self._u32(record + 8)
        if captured > <uint32_t>MAX_RECORD:
            raise ValueError(f"a packet of {captured:,} bytes: the file is damaged here")
        if left < 16 + captured:
            return 16 + captured
        slot = batch._add()
        slot.offset, slot.link = self.offset, self.link
        slot.nanos = <uint64_t>self._u32(record + 4) * (NANOSECONDS // self.per_second)
        slot.nanos += <uint64_t>self._u32(record) * NANOSECONDS
        slot.frame, slot.captured, slot.original = <uint32_t>(at + 16), captured, self._u32(record + 12)
        _find_ip(data, slot)
        return 16 + captured

    # pcapng

    cdef uint64_t _block(self, Batch batch, uint64_t at) except 0:
        """One block, if it is whole; the bytes it takes."""
        cdef const uint8_t *data = batch.data
        cdef uint64_t left = <uint64_t>len(batch.data) - at
        cdef const uint8_t *block = data + at
        cdef uint32_t kind, length
        if left < 12:
            return 12
        kind = self._u32(block)
        if kind == SECTION:
            self._section(block)
        length = self._u32(block + 4)
        if length < 12 or length > <uint32_t>MAX_RECORD or length % 4:
            raise ValueError(f"a block of {length:,} bytes: the file is damaged here")
        if left < length:
            return length
        if self._u32(block + length - 4) != length:
            raise ValueError("a block whose two lengths differ: the file is damaged here")
        if kind == INTERFACE:
            self._interface(block, length)
        elif kind == ENHANCED_PACKET or kind == OLD_PACKET:
            self._packet(batch, at, length, kind)
        elif kind == SIMPLE_PACKET:
            self._simple(batch, at, length)
        return length

    cdef int _section(self, const uint8_t *block) except -1:
        """A new section: its byte order, and interfaces of its own."""
        self.swapped = False
        if self._u32(block + 8) != BYTE_ORDER:
            self.swapped = True
            if self._u32(block + 8) != BYTE_ORDER:
                raise ValueError("a section without a byte order: the file is damaged here")
        self.interfaces = []
        return 0

    cdef int _interface(self, const uint8_t *block, uint32_t length) except -1:
        cdef uint32_t at = 16, size
        cdef uint16_t code
        cdef object per_second = 1000000, offset = 0
        if length < 20:
            raise ValueError("an interface block that is too short: the file is damaged here")
        if len(self.interfaces) >= MAX_INTERFACES:
            raise ValueError("more interfaces than any capture has: the file is damaged here")
        while at + 4 <= length - 4:
            code, size = self._u16(block + at), self._u16(block + at + 2)
            if code == 0 or at + 4 + size > length - 4:
                break
            if code == OPTION_TSRESOL and size == 1:
                per_second = (2 if block[at + 4] & 0x80 else 10) ** (block[at + 4] & 0x7F)
            elif code == OPTION_TSOFFSET and size == 8:
                order = "big" if self.swapped else "little"
                offset = int.from_bytes(block[at + 4:at + 12], order, signed=True)
            at += 4 + (size + 3) // 4 * 4
        if per_second >= 1 << 63:
            raise ValueError("time stamps finer than any clock's: the file is damaged here")
        self.interfaces.append((self._u16(block + 8), per_second, offset, self._u32(block + 12)))
        return 0

    cdef int _packet(self, Batch batch, uint64_t at, uint32_t length, uint32_t kind) except -1:
        """An enhanced packet block, or the packet block before it, which had 16 bits for the interface."""
        cdef const uint8_t *data = batch.data
        cdef const uint8_t *block = data + at
        cdef uint64_t stamp
        cdef uint32_t captured, number
        if length < 32:
            raise ValueError("a packet block that is too short: the file is damaged here")
        number = self._u32(block + 8) if kind == ENHANCED_PACKET else self._u16(block + 8)
        captured = self._u32(block + 20)
        if captured > length - 32:
            raise ValueError("a packet longer than its block: the file is damaged here")
        stamp = <uint64_t>self._u32(block + 12) << 32 | self._u32(block + 16)
        self._take(batch, number, stamp, at + 28, captured, self._u32(block + 24))
        return 0

    cdef int _simple(self, Batch batch, uint64_t at, uint32_t length) except -1:
        """A simple packet block: of the first interface, without a time."""
        cdef const uint8_t *data = batch.data
        cdef uint32_t original, captured
        if length < 16:
            raise ValueError("a packet block that is too short: the file is damaged here")
        original = self._u32(data + at + 8)
        captured = min(original, length - 16)
        if self.interfaces and self.interfaces[0][3]:
            captured = min(captured, <uint32_t>self.interfaces[0][3])
        self._take(batch, 0, 0, at + 12, captured, original)
        return 0

    cdef int _take(self, Batch batch, uint32_t number, uint64_t stamp, uint64_t at,
                   uint32_t captured, uint32_t original) except -1:
        cdef const uint8_t *data = batch.data
        cdef Slot *slot
        cdef Clock clock
        if number >= <uint32_t>len(self.interfaces):
            raise ValueError(f"a packet of interface {number}, which the file does not describe")
        clock.link, clock.per_second, clock.offset, _ = self.interfaces[number]
        slot = batch._add()
        slot.offset, slot.link = self.offset, clock.link
        slot.nanos = (stamp // clock.per_second + <uint64_t>clock.offset) * NANOSECONDS
        slot.nanos += <uint64_t>(
            <double>(stamp % clock.per_second) * NANOSECONDS / <double>clock.per_second + 0.5)
        slot.frame, slot.captured, slot.original = <uint32_t>at, captured, original
        _find_ip(data, slot)
        return 0
