# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: include_dirs = include
"""Layer 1, the routing core: IDs, k-buckets, the next hop, and verdicts on packets.

Contract: no I/O, no clock, no locks for readers, no GIL on the packet path. All state lies in one shared
mapping (include/kdht_region.h), which other threads and processes may map too: one writer, many readers.
`now` is Unix seconds and comes from the caller.

The parts are in kdht/core: `_buckets` finds the next hop, `_tags` makes and checks tags and cookies,
`_message` gives the verdict on a message, `_packet` handles the IP packet around it, `_reply` makes replies.
This module joins them with the shared mapping and with Python. include/kdht_shared.h names every reason.
"""

import os
from collections import namedtuple

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from kdht.core._buckets cimport count_closer, find_closest, find_next_hop, write_bucket
from kdht.core._layout cimport (
    KDHT_CONFIG_COOKIES, KDHT_CONFIG_PREFIXES, KDHT_CONFIG_READY, KDHT_CONFIG_UNTAGGED,
    KDHT_CONFIG_WRITE_COOKIE, KDHT_COOKIE_SLOT_BITS, KDHT_FORWARD, KDHT_GO_ON, KDHT_HEADER_LEN,
    KDHT_HOP_LIMIT, KDHT_ID_BITS, KDHT_ID_LEN, KDHT_K, KDHT_KEYLESS_LEN, KDHT_KEY_SLOTS, KDHT_LANES,
    KDHT_MAX_BODY, KDHT_MAX_DATAGRAM, KDHT_MAX_OWN, KDHT_READ_TRIES, KDHT_REASON_BAD_TAG,
    KDHT_REASON_COUNT, KDHT_REASON_NEXT_HOP, KDHT_REASON_NOT_READY, KDHT_REGION_MAGIC, KDHT_RELAY,
    KDHT_REPLAY_WINDOW, KDHT_ROOM, KDHT_STRANGERS, KDHT_TAG_KEY_LEN, MAP_FAILED, MAP_SHARED, PROT_READ,
    PROT_WRITE, c_close, c_mmap, c_munmap, htons, kdht_bucket, kdht_bucket_cell, kdht_config,
    kdht_config_cell, kdht_contact, kdht_header, kdht_lane, kdht_outcome, kdht_read_key, kdht_region,
    kdht_seq_begin, kdht_seq_fence, kdht_seq_same, kdht_seq_step, kdht_sip_read, kdht_stranger,
    kdht_verdict_of, ntohs,
)
from kdht.core._message cimport Plan, apply_plan, plan_message, seal
from kdht.core._packet cimport Packet, packet_close, packet_open, packet_parse
from kdht.core._prefixes cimport read_prefixes, write_prefixes
from kdht.core._tags cimport cookie_at
from kdht.core._reply cimport Request, is_own_quote, write_bounce, write_reply
from kdht.wire._shared import VERDICT_OF, Reason
from kdht.wire import Address, Contact

LANES = KDHT_LANES

cdef inline const kdht_config *_config(kdht_region *region, uint32_t lane_index) noexcept nogil:
    """The lane's own copy of the configuration, copied again after each publication.

    A verdict reads many fields of the configuration. With a private copy one look at the sequence suffices
    for all of them. If the writer wins every race, the copy is marked "not ready": the verdict is LOCAL.
    """
    cdef kdht_lane *lane = &region.lanes[lane_index]
    cdef uint32_t begun = kdht_seq_begin(&region.config.sequence)
    cdef int _try
    # Nearly always: the configuration changes a few times a minute, and there are a million verdicts in
    # between.
    if begun == lane.config_sequence:
        return &lane.config
    for _try in range(KDHT_READ_TRIES):
        # First: should this thread be killed during the copy, the next owner of the lane must not trust
        # it.
        lane.config_sequence = 0
        memcpy(&lane.config, &region.config.copies[begun & 1], sizeof(kdht_config))
        if kdht_seq_same(&region.config.sequence, begun):
            lane.config_sequence = begun
            return &lane.config
        begun = kdht_seq_begin(&region.config.sequence)
    # Without the READY flag the verdict is NOT_READY, and the socket's loop looks again.
    lane.config.flags = 0
    return &lane.config


cdef inline int _conclude(kdht_region *region, uint32_t lane, int reason,
                          kdht_outcome *out) noexcept nogil:
    region.lanes[lane].reasons[reason] += 1
    out.reason = <uint8_t>reason
    out.verdict = kdht_verdict_of[reason]
    return out.verdict


cdef void _note_stranger(kdht_lane *lane, const Plan *plan) noexcept nogil:
    """Keep the sender of a wrong tag in the place of the one that was kept first."""
    cdef kdht_stranger *stranger
    cdef int i
    for i in range(KDHT_STRANGERS):
        stranger = &lane.strangers[i]
        if stranger.port == plan.source_port and memcmp(stranger.ip, plan.source_ip, 16) == 0:
            stranger.seen = plan.now
            return
    stranger = &lane.strangers[lane.next_stranger % KDHT_STRANGERS]
    lane.next_stranger += 1
    memcpy(stranger.ip, plan.source_ip, 16)
    stranger.port = plan.source_port
    stranger.seen = plan.now


cdef int core_decide_message(kdht_region *region, uint32_t lane, uint8_t *message, uint32_t length,
                             const uint8_t *source_ip, uint16_t source_port,
                             const uint8_t *target_ip, uint16_t target_port,
                             bint inside, uint32_t now, kdht_outcome *out) noexcept nogil:
    cdef Plan plan
    cdef int verdict
    plan.config = _config(region, lane)
    # A socket can send to either IP version. A packet that is rewritten in place keeps its own.
    plan.now, plan.length, plan.one_family, plan.inside = now, length, False, inside
    plan.source_ip, plan.source_port = source_ip, source_port
    plan.target_ip, plan.target_port = target_ip, target_port
    verdict = _conclude(region, lane, plan_message(region, <kdht_header *>message, &plan, out), out)
    if out.reason == KDHT_REASON_BAD_TAG:
        _note_stranger(&region.lanes[lane], &plan)
    if verdict == KDHT_FORWARD or verdict == KDHT_RELAY:
        apply_plan(<kdht_header *>message, &plan, out)
    return verdict


cdef uint32_t core_reply(kdht_region *region, uint32_t lane, uint8_t *message, const Request *request,
                         uint8_t status, const uint8_t *body, uint32_t length, uint32_t now,
                         kdht_outcome *out) noexcept nogil:
    return write_reply(_config(region, lane), <kdht_header *>message, request, status,
                       body, length, now, out)


cdef uint32_t core_answer(kdht_region *region, uint8_t *message, const Request *request, uint8_t status,
                          const uint8_t *body, uint32_t length, uint32_t now,
                          kdht_outcome *out) noexcept nogil:
    cdef kdht_config config
    _snapshot(region, &config, sizeof(config))
    return write_reply(&config, <kdht_header *>message, request, status, body, length, now, out)


cdef int core_closest(kdht_region *region, const uint8_t *key, int wanted,
                      kdht_contact *found) noexcept nogil:
    cdef kdht_config config
    _snapshot(region, &config, KDHT_KEYLESS_LEN)
    return find_closest(region, &config, key, wanted, found)


cdef uint32_t core_bounce(kdht_region *region, uint32_t lane, uint8_t *message, uint32_t length, uint32_t now,
                          kdht_outcome *out) noexcept nogil:
    return write_bounce(_config(region, lane), <kdht_header *>message, length, now, out)


cdef bint core_is_own_quote(kdht_region *region, uint32_t lane, const uint8_t *message, uint32_t length,
                            uint32_t now) noexcept nogil:
    return is_own_quote(_config(region, lane), <const kdht_header *>message, length, now)


cdef void core_seal(kdht_region *region, kdht_header *header, uint32_t now) noexcept nogil:
    cdef kdht_config config
    _snapshot(region, &config, sizeof(config))
    seal(&config, header, now)


cdef int core_decide_packet(kdht_region *region, uint32_t lane, uint8_t *data, uint32_t length,
                            uint32_t now, kdht_outcome *out) noexcept nogil:
    cdef Packet packet
    cdef Plan plan
    cdef int reason = KDHT_REASON_NOT_READY, verdict
    plan.config = _config(region, lane)
    packet.ip = data
    if plan.config.flags & KDHT_CONFIG_READY:
        reason = packet_parse(plan.config, length, &packet)
    if reason != KDHT_GO_ON:
        return _conclude(region, lane, reason, out)
    plan.now, plan.length, plan.one_family = now, packet.message_len, True
    plan.inside = False  # no datapath takes whole packets from lo
    plan.source_ip, plan.source_port = packet.source_ip, packet.udp.source
    plan.target_ip, plan.target_port = packet.target_ip, packet.udp.dest
    reason = plan_message(region, <kdht_header *>packet.message, &plan, out)
    verdict = _conclude(region, lane, reason, out)
    if reason == KDHT_REASON_BAD_TAG:
        _note_stranger(&region.lanes[lane], &plan)
    if verdict == KDHT_FORWARD or verdict == KDHT_RELAY:
        # Around `apply_plan`, because the checksum needs the old bytes and the new ones.
        packet_open(&packet, 0 if reason == KDHT_REASON_NEXT_HOP else KDHT_HEADER_LEN)
        apply_plan(<kdht_header *>packet.message, &plan, out)
        packet_close(&packet, out)
    return verdict


Outcome = namedtuple("Outcome", "verdict reason source target next_id max_reply")
cdef str NO_REGION = "this file descriptor holds no routing state of this version of kdht"
# Made once: a call of an enum's class for each verdict would cost more than the verdict.
cdef list REASONS = [Reason(value) for value in range(KDHT_REASON_COUNT)]
cdef list VERDICTS = [VERDICT_OF[reason] for reason in REASONS]


def common_bits(a: bytes, b: bytes) -> int:
    """How many leading bits two 20-byte IDs share: 160 if they are the same."""
    _need(a, KDHT_ID_LEN, "an ID")
    _need(b, KDHT_ID_LEN, "an ID")
    return KDHT_ID_BITS - (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_length()


cdef _need(data, Py_ssize_t length, what):
    """Only bytes will do: C code copies them from inside the object."""
    if not isinstance(data, bytes):
        raise TypeError(f"{what} is bytes, not {type(data).__name__}")
    if len(data) != length:
        raise ValueError(f"{what} has {length} bytes, not {len(data)}")


cdef object _outcome(const kdht_outcome *out):
    cdef bint goes = out.verdict == KDHT_FORWARD or out.verdict == KDHT_RELAY
    return Outcome(
        VERDICTS[out.reason],
        REASONS[out.reason],
        _address(out.source_ip, out.source_port) if goes else None,
        _address(out.target_ip, out.target_port) if goes else None,
        out.next_id[:KDHT_ID_LEN] if out.verdict == KDHT_FORWARD else None,
        out.max_reply,
    )


# Both past their own constructors, which are Python.
cdef object _address(const uint8_t *ip, uint16_t port):
    return tuple.__new__(Address, (ip[:16], ntohs(port)))


cdef object make_contact(const kdht_contact *contact):
    return tuple.__new__(Contact, (contact.id[:KDHT_ID_LEN], contact.ip[:16], ntohs(contact.port)))


cdef class Core:
    """The routing state in one shared mapping, and the verdicts made from it.

    `Core()` makes a new, empty mapping (a memfd). `Core(fd)` maps the one that another process made. Every
    datapath thread of every process has a lane (0 to LANES - 1) of its own for its verdicts. Threads that
    hold the GIL of one process share lane 0. One process at a time may call `configure` and `set_bucket`.
    Anybody may read at any time. Raises OSError if there is no memory for the mapping, and ValueError if
    the file descriptor holds no mapping of this version.
    """

    def __cinit__(self, fd=None):
        cdef kdht_region *region
        cdef bint fresh = fd is None
        self.fd = os.memfd_create("kdht-core", os.MFD_CLOEXEC) if fresh else os.dup(fd)
        if fresh:
            os.ftruncate(self.fd, sizeof(kdht_region))
        # A mapping of another size would be read beyond its end, which kills the process (SIGBUS).
        elif os.fstat(self.fd).st_size != sizeof(kdht_region):
            os.close(self.fd)
            raise ValueError(NO_REGION)
        region = <kdht_region *>c_mmap(
            NULL, sizeof(kdht_region), PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if <void *>region == MAP_FAILED:
            os.close(self.fd)
            raise OSError("cannot map the routing state: out of memory")
        self.region = region
        if fresh:
            # A memfd is zero, and zeros are a valid empty state: no bucket has contacts and the node is
            # not ready.
            region.magic = KDHT_REGION_MAGIC
        elif region.magic != KDHT_REGION_MAGIC:
            raise ValueError(NO_REGION)

    def __dealloc__(self):
        if self.region is not NULL:
            c_munmap(<void *>self.region, sizeof(kdht_region))
            c_close(self.fd)

    # Publishing

    def configure(self, *, self_id, port, own, source4, source6, keys, cookie_key,
                  cookies=True, window=KDHT_REPLAY_WINDOW, hop_limit=KDHT_HOP_LIMIT, untagged=False,
                  write_cookie=False, prefixes=None):
        """Publish who this node is and what it accepts. Readers see all of it or none.

        `own`: up to 8 addresses of this node, 16 bytes each, anycast included. `source4`, `source6`: the
        addresses that it sends from, or None. `keys`: one or two pairs of epoch and tag key
        (`kdht.wire.keys`); the first one seals. `window`: seconds. `write_cookie`: a write needs a cookie.
        `prefixes`: who may send requests, as (16-byte address, bits, MAY_READ | MAY_WRITE); None: everybody.
        A new `self_id` empties all buckets. Raises ValueError for an
        impossible value.
        """
        cdef kdht_config config
        memset(&config, 0, sizeof(config))
        _fill_identity(&config, self_id, port, own, source4, source6)
        _fill_keys(&config, keys, cookie_key)
        if not 1 <= hop_limit <= 255:
            raise ValueError("a hop limit is a number from 1 to 255")
        if not 0 <= window < 1 << 32:
            raise ValueError(f"a replay window is a number of seconds, not {window}")
        config.window, config.hop_limit = window, hop_limit
        config.flags = (KDHT_CONFIG_READY | (KDHT_CONFIG_COOKIES if cookies else 0)
                        | (KDHT_CONFIG_UNTAGGED if untagged else 0)
                        | (KDHT_CONFIG_WRITE_COOKIE if write_cookie else 0)
                        | (KDHT_CONFIG_PREFIXES if prefixes is not None else 0))
        # Before the configuration, which says that the table counts.
        write_prefixes(self.region, prefixes or ())
        cdef kdht_config *old = _current(self)
        if memcmp(old.self_id, config.self_id, KDHT_ID_LEN) == 0:
            memcpy(config.occupancy, old.occupancy, sizeof(config.occupancy))
        else:
            # Before the new ID is published: a reader must not take old contacts for distances from
            # another ID.
            for i in range(KDHT_ID_BITS):
                write_bucket(self.region, i, ())
        _publish(self, &config)

    def set_bucket(self, index: int, contacts) -> None:
        """Publish bucket `index` (0 to 159) with up to 40 contacts. Readers see all of it or none.

        Each contact must share exactly `index` leading bits with this node. Raises ValueError otherwise.
        """
        # The caller is the only writer, so its own look needs no check of the sequence.
        cdef kdht_config config = _current(self)[0]
        cdef uint64_t bit
        if not config.flags & KDHT_CONFIG_READY:
            raise ValueError("configure() comes before set_bucket()")
        if not 0 <= index < KDHT_ID_BITS:
            raise ValueError(f"there is no bucket {index}")
        if len(contacts) > KDHT_ROOM:
            raise ValueError(f"a bucket holds {KDHT_ROOM} contacts, not {len(contacts)}")
        own_id = config.self_id[:KDHT_ID_LEN]
        for contact in contacts:
            if common_bits(own_id, contact.id) != index:
                raise ValueError(f"contact {contact.id.hex()} does not belong in bucket {index}")
            _need(contact.ip, 16, "an address")
            if not 0 < contact.port < 65536:
                raise ValueError(f"contact {contact.id.hex()} has no port")
        write_bucket(self.region, index, contacts)
        bit = <uint64_t>1 << (63 - index % 64)
        occupied = bool(config.occupancy[index // 64] & bit)
        # After the bucket: a reader that sees the bit finds the contacts. One that sees an emptied bucket
        # finds none, and goes on.
        if occupied != bool(contacts):
            config.occupancy[index // 64] ^= bit
            _publish(self, &config)

    # Reading

    def raw_config(self) -> bytes:
        """The published struct kdht_config, for a datapath with a copy of its own (ebpf)."""
        cdef kdht_config config
        _snapshot(self.region, &config, sizeof(config))
        return (<uint8_t *>&config)[:sizeof(config)]

    def prefixes(self) -> list:
        """The published prefixes, as `configure` takes them, for a datapath with a copy of its own."""
        return read_prefixes(self.region)

    def raw_bucket(self, index: int) -> bytes:
        """The published struct kdht_bucket of bucket `index`."""
        cdef kdht_bucket bucket = _read_bucket(self.region, index)
        return (<uint8_t *>&bucket)[:sizeof(bucket)]

    def bucket(self, index: int) -> list:
        """The published contacts of bucket `index`."""
        cdef kdht_bucket bucket = _read_bucket(self.region, index)
        cdef uint32_t i
        return [make_contact(&bucket.contacts[i]) for i in range(bucket.count)]

    def occupancy(self) -> int:
        """Which buckets hold contacts: a map of 160 bits, the top bit is bucket 0."""
        cdef kdht_config config
        _snapshot(self.region, &config, KDHT_KEYLESS_LEN)
        words = [config.occupancy[0], config.occupancy[1], config.occupancy[2]]
        return (words[0] << 96) | (words[1] << 32) | (words[2] >> 32)

    def next_hop(self, key: bytes, attempt: int = 0):
        """The contact closest to the 20-byte key if it is closer than this node, else None.

        With `attempt` n (0 to 255): the contact that has n closer ones before it.
        """
        cdef kdht_region *region = self.region
        cdef kdht_config config
        cdef kdht_contact found
        _need(key, KDHT_ID_LEN, "a key")
        _snapshot(region, &config, KDHT_KEYLESS_LEN)
        if find_next_hop(region, &config, key, attempt, &found) == KDHT_REASON_NEXT_HOP:
            return make_contact(&found)
        return None

    def closest(self, key: bytes, count: int = KDHT_K) -> list:
        """Up to `count` contacts, closest to the 20-byte key first, without this node."""
        cdef kdht_region *region = self.region
        cdef kdht_config config
        cdef int i, number, wanted = min(max(count, 0), KDHT_ID_BITS * KDHT_ROOM)
        _need(key, KDHT_ID_LEN, "a key")
        cdef const uint8_t *key_at = key
        # Python's memory, so that an exception below leaks nothing.
        cdef bytearray room = bytearray(max(wanted, 1) * sizeof(kdht_contact))
        cdef kdht_contact *found = <kdht_contact *><char *>room
        _snapshot(region, &config, KDHT_KEYLESS_LEN)
        with nogil:
            number = find_closest(region, &config, key_at, wanted, found)
        return [make_contact(&found[i]) for i in range(number)]

    def rank(self, key: bytes, limit: int = KDHT_K) -> int:
        """How many contacts are closer to the 20-byte key than this node, at most `limit`."""
        cdef kdht_region *region = self.region
        cdef kdht_config config
        _snapshot(region, &config, KDHT_KEYLESS_LEN)
        _need(key, KDHT_ID_LEN, "a key")
        return min(count_closer(region, &config, key), limit)

    # Verdicts

    def decide_message(self, message: bytearray, source, target, now: int, lane: int = 0, *,
                       inside: bool = False):
        """The verdict on a message that came from `source` to the own address `target`.

        `inside`: its sender is on this host, so that it may have an own address or a loopback one.
        FORWARD and RELAY rewrite the header in place. The Outcome has the new addresses. `now`: Unix seconds.
        """
        cdef kdht_outcome out
        cdef uint8_t[::1] view = message
        cdef bytes source_ip = source.ip, target_ip = target.ip
        cdef uint8_t nothing = 0
        _check_lane(lane)
        _need(source_ip, 16, "an address")
        _need(target_ip, 16, "an address")
        memset(&out, 0, sizeof(out))
        core_decide_message(self.region, lane, &view[0] if len(message) else &nothing, <uint32_t>len(message),
                            source_ip, htons(source.port), target_ip, htons(target.port), inside, now, &out)
        return _outcome(&out)

    def decide_packet(self, packet: bytearray, now: int, lane: int = 0):
        """The verdict on a whole IPv4 or IPv6 packet, from its IP header on. FORWARD and RELAY rewrite it."""
        cdef kdht_outcome out
        cdef uint8_t[::1] view = packet
        cdef uint8_t nothing = 0
        _check_lane(lane)
        memset(&out, 0, sizeof(out))
        core_decide_packet(self.region, lane, &view[0] if len(packet) else &nothing,
                           <uint32_t>len(packet), now, &out)
        return _outcome(&out)

    def seal(self, message: bytearray, now: int) -> None:
        """Set flag, time, epoch and tags of `message`, in place: then other members accept it.

        Raises ValueError if it is shorter than a header or longer than a message, or has a wrong body length.
        """
        cdef uint8_t[::1] view = message
        if len(message) < KDHT_HEADER_LEN:
            raise ValueError("a message has at least a header")
        # The tag's key has words for as many bytes, and no more.
        if len(message) > KDHT_HEADER_LEN + KDHT_MAX_BODY:
            raise ValueError(f"a body has at most {KDHT_MAX_BODY} bytes")
        cdef kdht_header *header = <kdht_header *>&view[0]
        if KDHT_HEADER_LEN + ntohs(header.body_len) != len(message):
            raise ValueError("the body length differs from the number of bytes behind the header")
        seal(_current(self), header, now)

    def cookie(self, client_ip: bytes, now: int) -> int:
        """The cookie that proves the 16-byte address now."""
        cdef kdht_config *config = _current(self)
        _need(client_ip, 16, "an address")
        return cookie_at(config, client_ip, <uint32_t>now >> KDHT_COOKIE_SLOT_BITS)

    def reply(self, request, status: int, body: bytes, now: int):
        """The reply to a LOCAL request: its bytes, its target, its source (None: the usual address).

        `request` is a Datagram. A `body` that is longer than the client may get is replaced by a status that
        says why. Raises ValueError for less than a header, or more body than a message holds.
        """
        cdef bytes asked = request.data, body_bytes = body
        cdef bytes source_ip = request.source.ip, target_ip = request.target.ip
        cdef uint8_t message[KDHT_MAX_DATAGRAM]
        cdef kdht_outcome out
        cdef Request came
        cdef kdht_config config
        _snapshot(self.region, &config, sizeof(config))
        if not KDHT_HEADER_LEN <= len(asked) or len(body_bytes) > KDHT_MAX_BODY:
            raise ValueError("the request has no whole header, or the body is too long")
        _need(source_ip, 16, "an address")
        _need(target_ip, 16, "an address")
        # The header becomes the reply's. The body of the request is not needed.
        memcpy(message, <const uint8_t *>asked, KDHT_HEADER_LEN)
        came.source_ip, came.source_port = source_ip, htons(request.source.port)
        came.target_ip, came.target_port = target_ip, htons(request.target.port)
        came.max_reply = request.max_reply
        length = write_reply(&config, <kdht_header *>message, &came, status, body_bytes,
                             <uint32_t>len(body_bytes), <uint32_t>now, &out)
        return _outgoing(message, length, &out)

    def bounce(self, quoted: bytes, now: int):
        """The UNREACHABLE reply to a forwarded request, of which an ICMP error quotes the beginning.

        As `reply` gives it. None if the quote is not of a client's request with a valid tag.
        """
        cdef uint8_t message[KDHT_MAX_DATAGRAM]
        cdef kdht_outcome out
        cdef kdht_config config
        _snapshot(self.region, &config, sizeof(config))
        cdef uint32_t length = <uint32_t>min(len(quoted), KDHT_MAX_DATAGRAM)
        memset(&out, 0, sizeof(out))
        memcpy(message, <const uint8_t *>quoted, length)
        length = write_bounce(&config, <kdht_header *>message, length, <uint32_t>now, &out)
        return _outgoing(message, length, &out) if length else None

    def counters(self, lane=None) -> dict:
        """How many verdicts so far, by name of the reason, on one lane or on all."""
        cdef kdht_region *region = self.region
        lanes = range(KDHT_LANES) if lane is None else (_check_lane(lane),)
        return {reason.name: sum(region.lanes[<int>i].reasons[<int>reason] for i in lanes)
                for reason in REASONS}

    def strangers(self) -> dict:
        """The last senders of messages with a wrong tag, and the Unix second of each one's last message."""
        cdef kdht_stranger *stranger
        cdef int lane, i
        found = {}
        for lane in range(KDHT_LANES):
            for i in range(KDHT_STRANGERS):
                stranger = &self.region.lanes[lane].strangers[i]
                if stranger.seen:
                    address = _address(stranger.ip, stranger.port)
                    found[address] = max(found.get(address, 0), stranger.seen)
        return found


cdef tuple _outgoing(const uint8_t *message, uint32_t length, const kdht_outcome *out):
    """Bytes, target and source."""
    source = _address(out.source_ip, out.source_port) if out.source_port else None
    return message[:length], _address(out.target_ip, out.target_port), source


cdef void _snapshot(const kdht_region *region, kdht_config *config, size_t length) noexcept nogil:
    """The first `length` bytes of the published configuration, for readers without a lane."""
    cdef uint32_t begun
    while True:
        begun = kdht_seq_begin(&region.config.sequence)
        memcpy(config, &region.config.copies[begun & 1], length)
        if kdht_seq_same(&region.config.sequence, begun):
            return


cdef kdht_bucket _read_bucket(const kdht_region *region, int index) except *:
    """One bucket as published."""
    cdef const kdht_bucket_cell *cell
    cdef kdht_bucket bucket
    cdef uint32_t begun
    if not 0 <= index < KDHT_ID_BITS:
        raise ValueError(f"there is no bucket {index}")
    cell = &region.buckets[index]
    while True:
        begun = kdht_seq_begin(&cell.sequence)
        bucket = cell.copies[begun & 1].bucket
        if kdht_seq_same(&cell.sequence, begun):
            return bucket


cdef kdht_config *_current(Core core) except NULL:
    cdef kdht_config_cell *cell = &core.region.config
    return &cell.copies[cell.sequence & 1]


cdef int _publish(Core core, const kdht_config *config) except -1:
    cdef kdht_config_cell *cell = &core.region.config
    kdht_seq_fence()
    # The copy that no reader uses. A writer that is killed here leaves the current one whole.
    cell.copies[~cell.sequence & 1] = config[0]
    kdht_seq_step(&cell.sequence)
    return 0


cdef _check_lane(lane):
    if not 0 <= lane < KDHT_LANES:
        raise ValueError(f"lanes are numbered from 0 to {KDHT_LANES - 1}, not {lane}")
    return lane


cdef int _fill_identity(kdht_config *config, self_id, port, own, source4, source6) except -1:
    cdef int i
    _need(self_id, KDHT_ID_LEN, "an ID")
    if not 0 < port < 65536:
        raise ValueError(f"a port is a number from 1 to 65535, not {port}")
    if len(own) > KDHT_MAX_OWN:
        raise ValueError(f"a node has at most {KDHT_MAX_OWN} addresses, not {len(own)}")
    memcpy(config.self_id, <const uint8_t *><bytes>self_id, KDHT_ID_LEN)
    config.port = htons(port)
    config.own_count = <uint8_t>len(own)
    for i, ip in enumerate(own):
        _need(ip, 16, "an address")
        memcpy(config.own[i], <const uint8_t *><bytes>ip, 16)
    if source4 is not None:
        _need(source4, 16, "an address")
        memcpy(config.source4, <const uint8_t *><bytes>source4, 16)
    if source6 is not None:
        _need(source6, 16, "an address")
        memcpy(config.source6, <const uint8_t *><bytes>source6, 16)
    return 0


cdef int _fill_keys(kdht_config *config, keys, cookie_key) except -1:
    cdef int i
    if not 1 <= len(keys) <= KDHT_KEY_SLOTS:
        raise ValueError(f"one or {KDHT_KEY_SLOTS} cluster keys at a time, not {len(keys)}")
    for i, (epoch, tag_key) in enumerate(keys):
        _need(tag_key, KDHT_TAG_KEY_LEN, "a tag key")
        if not 0 <= epoch <= 255:
            raise ValueError(f"a key epoch is a number from 0 to 255, not {epoch}")
        kdht_read_key(&config.keys[i], <const uint8_t *><bytes>tag_key)
        config.keys[i].epoch, config.keys[i].valid = epoch, 1
    _need(cookie_key, 16, "a cookie key")
    config.cookie.k0 = kdht_sip_read(<const uint8_t *><bytes>cookie_key)
    config.cookie.k1 = kdht_sip_read(<const uint8_t *><bytes>cookie_key + 8)
    return 0
