# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""Many verdicts without the GIL and without Python objects: for measurements, and for tests of threads."""

from array import array

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from kdht._routing cimport KDHT_FORWARD, KDHT_RELAY, Core, core_decide_packet, kdht_outcome
from kdht._routing import LANES

cdef enum:
    ROOM = 2048


def repeat(Core core not None, packets, long rounds, uint32_t now, uint32_t lane=0) -> int:
    """Give verdicts on fresh copies of all packets, `rounds` times. The number of FORWARD and RELAY verdicts.

    The caller times it. `now`: Unix seconds. Raises ValueError for a lane that is none, or a packet over
    2048 bytes.
    """
    cdef uint8_t scratch[ROOM]
    cdef bytes joined = b"".join(bytes(packet) for packet in packets)
    cdef const uint8_t *start = joined
    cdef const uint8_t *at
    cdef uint32_t[::1] sizes = array("I", [len(packet) for packet in packets])
    cdef kdht_outcome out
    cdef long _round, i, count = len(packets), moved = 0
    cdef int verdict
    if lane >= LANES:
        raise ValueError(f"lanes are numbered from 0 to {LANES - 1}, not {lane}")
    if any(len(packet) > ROOM for packet in packets):
        raise ValueError(f"a packet has at most {ROOM} bytes here")
    with nogil:
        for _round in range(rounds):
            at = start
            for i in range(count):
                memcpy(scratch, at, sizes[i])
                verdict = core_decide_packet(core.region, lane, scratch, sizes[i], now, &out)
                moved += verdict == KDHT_FORWARD or verdict == KDHT_RELAY
                at += sizes[i]
    return moved
