# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: include_dirs = include
"""Verdicts on whole batches without the GIL: by the core, and by the XDP program's test run.

A Results has, for each packet of its Batch, the outcome and the packet as it went on.
`run_core` and `run_program` fill them; the oracle and the live implementations put theirs
in one by one. `differences` compares two of them at memory's speed.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

import os
from collections import namedtuple

from kdht.core._layout cimport (
    KDHT_DROP, KDHT_FORWARD, KDHT_ID_LEN, KDHT_PASS, KDHT_REASON_ATTEMPT_ENDS, KDHT_REASON_COUNT,
    KDHT_REASON_OWNER, KDHT_REASON_TRACE_ENDS, KDHT_RELAY, htons, kdht_outcome, kdht_verdict_of, ntohs,
)
from kdht._routing cimport Core, core_decide_packet
from kdht.replay._capture cimport Batch, Slot

from kdht.wire._shared import VERDICT_OF, Reason
from kdht.wire import Address

cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    #include <linux/bpf.h>
    #include <linux/types.h>
    #include <string.h>

    /* One run of the program on a frame; -1 and errno if the kernel takes no such frame. */
    static int kdht_test_run(int program, const void *in, __u32 in_size, void *out, __u32 out_size,
                             __u32 *retval)
    {
        union bpf_attr attr;
        memset(&attr, 0, sizeof(attr));
        attr.test.prog_fd = program;
        attr.test.data_in = (__u64)(unsigned long)in;
        attr.test.data_size_in = in_size;
        attr.test.data_out = (__u64)(unsigned long)out;
        attr.test.data_size_out = out_size;
        attr.test.repeat = 1;
        if (syscall(__NR_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)))
            return -1;
        *retval = attr.test.retval;
        return attr.test.data_size_out == in_size ? 0 : -2;
    }
    """
    int kdht_test_run(int program, const void *data, uint32_t size, void *out, uint32_t out_size,
                      uint32_t *retval) nogil

Judgement = namedtuple("Judgement", "reason data source target next_id max_reply action unable")
"""One packet's: `reason` is None where it could not be run, and `unable` says why."""

cdef enum:
    NANOSECONDS = 1000000000
    ETHERNET = 14
    MAX_FRAME = 1 << 16
    FULL = 1     # the whole outcome is known, not the reason and the bytes alone
    UNABLE = 2   # the implementation takes no such packet
    UNSEEN = 0xFF  # no action was seen
    XDP_DROP = 1
    XDP_PASS = 2
    XDP_TX = 3

cdef list REASONS = list(Reason)
cdef list VERDICTS = [VERDICT_OF[reason] for reason in REASONS]
ACTIONS = {0: "XDP_ABORTED", 1: "XDP_DROP", 2: "XDP_PASS", 3: "XDP_TX", 4: "XDP_REDIRECT"}


cdef class Results:
    """What one implementation made of a batch."""

    cdef readonly Batch batch
    cdef uint8_t *data      # as the batch's, rewritten
    cdef kdht_outcome *outcomes
    cdef uint8_t *known
    cdef uint8_t *actions
    cdef dict unables

    def __cinit__(self, Batch batch):
        cdef const uint8_t *before = batch.data
        self.batch = batch
        self.unables = {}
        self.data = <uint8_t *>malloc(len(batch.data) + 1)
        self.outcomes = <kdht_outcome *>calloc(batch.count + 1, sizeof(kdht_outcome))
        self.known = <uint8_t *>calloc(batch.count + 1, 1)
        self.actions = <uint8_t *>malloc(batch.count + 1)
        if self.data is NULL or self.outcomes is NULL or self.known is NULL or self.actions is NULL:
            raise MemoryError
        memcpy(self.data, before, len(batch.data))
        memset(self.actions, UNSEEN, batch.count + 1)

    def __dealloc__(self):
        free(self.data)
        free(self.outcomes)
        free(self.known)
        free(self.actions)

    def __len__(self):
        return self.batch.count

    def get(self, Py_ssize_t index):
        """One packet's Judgement."""
        cdef Slot *slot = self.batch._slot(index)
        cdef kdht_outcome *out = &self.outcomes[index]
        cdef bint goes = out.verdict == KDHT_FORWARD or out.verdict == KDHT_RELAY
        cdef bint full = self.known[index] & FULL
        data = self.data[slot.at:slot.at + slot.length]
        if self.known[index] & UNABLE:
            return Judgement(None, data, None, None, None, None, None, self.unables.get(index))
        return Judgement(
            REASONS[out.reason],
            data,
            Address(out.source_ip[:16], ntohs(out.source_port)) if full and goes else None,
            Address(out.target_ip[:16], ntohs(out.target_port)) if full and goes else None,
            out.next_id[:KDHT_ID_LEN] if full and out.verdict == KDHT_FORWARD else None,
            out.max_reply if full else None,
            ACTIONS.get(self.actions[index]),
            None,
        )

    def put(self, Py_ssize_t index, reason, data=None, source=None, target=None, next_id=None,
            max_reply=None):
        """Set one packet's outcome; `data` of the packet's own length replaces it."""
        cdef Slot *slot = self.batch._slot(index)
        cdef kdht_outcome *out = &self.outcomes[index]
        cdef const uint8_t *raw
        memset(out, 0, sizeof(kdht_outcome))
        out.reason, out.verdict = reason.value, VERDICTS[reason].value
        self.known[index] = 0
        if max_reply is not None:
            self.known[index] = FULL
            out.max_reply = max_reply
        if source is not None and target is not None:
            _put_address(out.source_ip, &out.source_port, source)
            _put_address(out.target_ip, &out.target_port, target)
        if next_id is not None:
            raw = next_id
            memcpy(out.next_id, raw, KDHT_ID_LEN)
        if data is not None:
            if len(data) != slot.length:
                raise ValueError("a packet's length does not change")
            raw = data
            memcpy(self.data + slot.at, raw, slot.length)

    def cannot(self, Py_ssize_t index, why: str) -> None:
        """Say that the implementation takes no such packet."""
        self.batch._slot(index)
        self.known[index] = UNABLE
        self.unables[index] = why

    def tally(self) -> dict:
        """How many packets had each reason; those that could not be run under None."""
        cdef uint64_t counts[256]
        cdef uint64_t unable = 0
        cdef uint32_t i
        memset(counts, 0, sizeof(counts))
        for i in range(self.batch.count):
            if self.known[i] & UNABLE:
                unable += 1
            else:
                counts[self.outcomes[i].reason] += 1
        found = {reason: counts[<int>reason] for reason in REASONS if counts[<int>reason]}
        if unable:
            found[None] = unable
        return found

    def having(self, reasons) -> list:
        """The packets with one of these reasons."""
        cdef uint8_t wanted[256]
        cdef uint32_t i
        memset(wanted, 0, sizeof(wanted))
        for reason in reasons:
            wanted[<int>reason] = 1
        return [i for i in range(self.batch.count)
                if wanted[self.outcomes[i].reason] and not self.known[i] & UNABLE]

    def differences(self, Results other) -> list:
        """The packets on which two results do not agree; what one could not run or tell is no difference."""
        cdef list found = []
        cdef uint32_t i = 0, count = self.batch.count
        if other.batch is not self.batch:
            raise ValueError("results of different batches")
        while i < count:
            with nogil:
                while i < count and _same(self, other, i):
                    i += 1
            if i < count:
                found.append(i)
            i += 1
        return found

    def gone_on(self) -> bytes:
        """The packets that went on, as pcap records with nanoseconds, little-endian."""
        cdef uint64_t total = 0
        cdef uint32_t i
        cdef uint32_t header[4]
        cdef Slot *slot
        cdef bytes made
        cdef char *at
        for i in range(self.batch.count):
            if _goes_on(self, i):
                total += 16 + self.batch.slots[i].length
        made = b"\0" * total
        at = made
        for i in range(self.batch.count):
            if _goes_on(self, i):
                slot = &self.batch.slots[i]
                header[0] = <uint32_t>(slot.nanos // NANOSECONDS)
                header[1] = <uint32_t>(slot.nanos % NANOSECONDS)
                header[2] = header[3] = slot.length
                memcpy(at, header, 16)
                memcpy(at + 16, self.data + slot.at, slot.length)
                at += 16 + slot.length
        return made


cdef inline bint _goes_on(Results results, uint32_t i) noexcept nogil:
    cdef uint8_t verdict = results.outcomes[i].verdict
    return (verdict == KDHT_FORWARD or verdict == KDHT_RELAY) and not results.known[i] & UNABLE


cdef int _put_address(uint8_t *ip, uint16_t *port, address) except -1:
    cdef const uint8_t *raw = address.ip
    memcpy(ip, raw, 16)
    port[0] = htons(address.port)
    return 0


cdef bint _same(Results one, Results other, uint32_t i) noexcept nogil:
    cdef const kdht_outcome *a = &one.outcomes[i]
    cdef const kdht_outcome *b = &other.outcomes[i]
    cdef const Slot *slot = &one.batch.slots[i]
    if (one.known[i] | other.known[i]) & UNABLE:
        return True
    if a.reason != b.reason or memcmp(one.data + slot.at, other.data + slot.at, slot.length) != 0:
        return False
    if not (_acted_rightly(one, i) and _acted_rightly(other, i)):
        return False
    if not one.known[i] & other.known[i] & FULL:
        return True
    if a.verdict == KDHT_FORWARD or a.verdict == KDHT_RELAY:
        return (a.source_port == b.source_port and a.target_port == b.target_port
                and memcmp(a.source_ip, b.source_ip, 16) == 0 and memcmp(a.target_ip, b.target_ip, 16) == 0
                and (a.verdict == KDHT_RELAY or memcmp(a.next_id, b.next_id, KDHT_ID_LEN) == 0))
    if (a.reason == KDHT_REASON_OWNER or a.reason == KDHT_REASON_ATTEMPT_ENDS
            or a.reason == KDHT_REASON_TRACE_ENDS):
        return a.max_reply == b.max_reply
    return True


cdef inline bint _acted_rightly(Results results, uint32_t i) noexcept nogil:
    """Whether the program's action is the one of its reason's verdict."""
    cdef uint8_t verdict = results.outcomes[i].verdict
    cdef uint8_t wanted = XDP_PASS
    if results.actions[i] == UNSEEN:
        return True
    if verdict == KDHT_DROP:
        wanted = XDP_DROP
    elif verdict == KDHT_FORWARD or verdict == KDHT_RELAY:
        wanted = XDP_TX
    return results.actions[i] == wanted


def run_core(Core core, Results results, now=None, shift=0) -> None:
    """The core's verdicts at the unix second `now`, or, with None, when each packet was captured.

    `shift` seconds are added to the captured times.
    """
    cdef Batch batch = results.batch
    cdef bint fixed = now is not None
    cdef uint32_t second = (now if fixed else 0) & 0xFFFFFFFF
    cdef long long later = shift
    cdef uint32_t i
    cdef Slot *slot
    with nogil:
        for i in range(batch.count):
            slot = &batch.slots[i]
            if not fixed:
                second = <uint32_t>(<long long>(slot.nanos // NANOSECONDS) + later)
            core_decide_packet(core.region, 0, results.data + slot.at, slot.length, second,
                               &results.outcomes[i])
            results.known[i] = FULL


def run_program(int program, Results results, uint32_t begin, uint32_t end) -> None:
    """The XDP program's verdicts on packets `begin` to `end`, in Ethernet frames of our own.

    The program's settings must say TEST_RUN and the time. Raises OSError for what is not a
    frame's fault. Threads may share a Results if their ranges do not overlap.
    """
    cdef Batch batch = results.batch
    cdef uint8_t *frame = <uint8_t *>malloc(2 * MAX_FRAME)
    cdef uint8_t *out = frame + MAX_FRAME
    cdef int code = 0
    cdef uint32_t i
    cdef list refused = []
    if frame is NULL:
        raise MemoryError
    memset(frame, 0, ETHERNET)
    try:
        i = begin
        while i < end and i < batch.count:
            with nogil:
                while i < end and i < batch.count:
                    code = _run_one(program, results, i, frame, out)
                    if code:
                        break
                    i += 1
            if code:
                refused.append((i, code))
            i += 1
    finally:
        free(frame)
    for index, number in refused:
        if number != 22 and number != 7:  # EINVAL, E2BIG
            raise OSError(number, f"cannot run the XDP program: {os.strerror(number)}")
        results.cannot(index, "the kernel's test run takes no frame of this length")


cdef int _run_one(int program, Results results, uint32_t i, uint8_t *frame, uint8_t *out) noexcept nogil:
    """0, or the errno."""
    cdef Slot *slot = &results.batch.slots[i]
    cdef kdht_outcome *outcome = &results.outcomes[i]
    cdef const uint8_t *packet = results.data + slot.at
    cdef uint32_t size = ETHERNET + slot.length, retval = 0
    cdef int code
    if size > MAX_FRAME:
        return 7
    frame[12], frame[13] = 0x08, 0x00
    if slot.length and packet[0] >> 4 == 6:
        frame[12], frame[13] = 0x86, 0xDD
    memcpy(frame + ETHERNET, packet, slot.length)
    code = kdht_test_run(program, frame, size, out, size, &retval)
    if code == -2:
        return 5
    if code:
        return errno
    memcpy(results.data + slot.at, out + ETHERNET, slot.length)
    outcome.reason = <uint8_t>(retval >> 8)
    outcome.verdict = kdht_verdict_of[outcome.reason] if outcome.reason < KDHT_REASON_COUNT else KDHT_PASS
    results.actions[i] = <uint8_t>(retval & 0xFF)
    return 0
