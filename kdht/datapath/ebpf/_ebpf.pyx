# cython: language_level=3
# distutils: include_dirs = include bpf
# distutils: libraries = bpf
# distutils: depends = bpf/kdht_xdp.h
"""A thin layer over libbpf: load an object, use its maps, run and attach its program.

Everything is a file descriptor or bytes; policy (what is pinned where, what is published)
is in kdht/datapath/ebpf/datapath.py. Every libbpf call that fails raises BpfError with what was
tried and errno; nothing else leaves this module.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from kdht.core._layout cimport (
    KDHT_ID_BITS, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, c_mmap, c_munmap, kdht_bucket,
    kdht_bucket_cell, kdht_fill_nearest, kdht_near_bucket,
    kdht_seq_fence, kdht_seq_step,
)


cdef extern from "<linux/bpf.h>" nogil:
    enum:
        BPF_XDP
        BPF_ANY
        BPF_F_TEST_XDP_LIVE_FRAMES
        BPF_MAP_TYPE_ARRAY
        BPF_MAP_TYPE_LPM_TRIE
        BPF_F_NO_PREALLOC
        BPF_F_MMAPABLE
    struct bpf_prog_info:
        uint32_t id
        uint32_t verified_insns
        uint32_t xlated_prog_len
        uint32_t jited_prog_len
        char name[16]
    struct _xdp_link:
        uint32_t ifindex
    struct bpf_link_info:
        uint32_t prog_id
        _xdp_link xdp

cdef extern from "kdht_xdp.h" nogil:
    struct kdht_config:
        uint64_t occupancy[3]
    enum:
        KDHT_MAX_PREFIXES
        KDHT_XDP_FIXED_TIME
        KDHT_XDP_TEST_RUN
        KDHT_XDP_LAYOUT
        KDHT_MAX_LINKS
        KDHT_LINK_GENERIC
    struct kdht_rates:
        uint64_t prices[3]
    struct kdht_xdp_settings:
        int64_t clock_offset
        uint32_t now
        uint32_t flags
        uint32_t only
        kdht_rates rates
    struct kdht_prefix:
        uint32_t bits
    struct kdht_link:
        uint32_t ifindex
        uint32_t device
        uint16_t vlan
        uint8_t mac[6]
        uint32_t flags
    struct kdht_xdp_state:
        kdht_config config
        kdht_xdp_settings settings
        uint32_t link_count
        kdht_link links[1]

cdef extern from "<arpa/inet.h>" nogil:
    uint32_t htonl(uint32_t)

cdef extern from "<linux/if_link.h>" nogil:
    enum:
        XDP_FLAGS_DRV_MODE
        XDP_FLAGS_SKB_MODE

cdef extern from "<bpf/libbpf.h>" nogil:
    struct bpf_object
    struct bpf_program
    struct bpf_map
    enum libbpf_print_level:
        pass
    ctypedef int (*libbpf_print_fn_t)(libbpf_print_level level, const char *format, ...)
    void *libbpf_set_print(void *fn)
    struct bpf_object_open_opts:
        size_t sz
        char *kernel_log_buf
        size_t kernel_log_size
        uint32_t kernel_log_level
    bpf_object *bpf_object__open_file(const char *path, const bpf_object_open_opts *opts)
    int bpf_object__load(bpf_object *obj)
    void bpf_object__close(bpf_object *obj)
    bpf_program *bpf_object__find_program_by_name(const bpf_object *obj, const char *name)
    bpf_map *bpf_object__find_map_by_name(const bpf_object *obj, const char *name)
    bpf_map *bpf_object__next_map(const bpf_object *obj, const bpf_map *map)
    const char *bpf_map__name(const bpf_map *map)
    bint bpf_map__is_internal(const bpf_map *map)
    int bpf_map__set_pin_path(bpf_map *map, const char *path)
    int bpf_map__fd(const bpf_map *map)
    int bpf_program__fd(const bpf_program *prog)
    int libbpf_num_possible_cpus()

cdef extern from "<bpf/bpf.h>" nogil:
    struct bpf_test_run_opts:
        size_t sz
        const void *data_in
        void *data_out
        uint32_t data_size_in
        uint32_t data_size_out
        const void *ctx_in
        uint32_t ctx_size_in
        uint32_t retval
        int repeat
        uint32_t flags
        uint32_t duration
        uint32_t batch_size
    struct bpf_map_create_opts:
        size_t sz
        uint32_t map_flags
    struct bpf_link_create_opts:
        size_t sz
        uint32_t flags
    int bpf_prog_test_run_opts(int prog_fd, bpf_test_run_opts *opts)
    int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *info_len)
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_create(int type, const char *name, uint32_t key_size, uint32_t value_size,
                       uint32_t max_entries, const void *opts)
    int bpf_link_create(int prog_fd, int target_fd, int attach_type, const bpf_link_create_opts *opts)
    int bpf_link_update(int link_fd, int new_prog_fd, const void *opts)
    int bpf_link_detach(int link_fd)
    int bpf_obj_pin(int fd, const char *path)
    int bpf_obj_get(const char *path)
    int bpf_prog_get_fd_by_id(uint32_t id)

cdef bytes BUCKETS = b"kdht_buckets"
cdef bytes UNPINNED = b"kdht_unpinned"  # emptied when its last holder is gone: bpf/hot_answer.h
cdef size_t CELLS_SIZE = KDHT_ID_BITS * sizeof(kdht_bucket_cell)  # the kernel maps whole pages
LAYOUT = f"{KDHT_XDP_LAYOUT}-{sizeof(kdht_xdp_state)}"
FIXED_TIME, TEST_RUN = KDHT_XDP_FIXED_TIME, KDHT_XDP_TEST_RUN


cdef enum:
    LOG_SIZE = 1 << 16
    LOG_STATS = 4  # errors and statistics, not each instruction
NO_REASONS = ("processed ", "verification time ", "stack depth ", "mark_precise", "math between")


class BpfError(OSError):
    """An error of libbpf or the kernel. `errno` says which. `verifier`: the verifier's last line, or ""."""

    verifier = ""


cdef _check(int result, what):
    """Check the result of a libbpf call: -errno, or -1 with errno set, becomes BpfError."""
    cdef int code = errno
    if result >= 0:
        return result
    if result != -1:
        code = -result
    raise BpfError(code, f"cannot {what}: {os.strerror(code)}")


def be_quiet() -> None:
    """Keep libbpf from printing to stderr; errors arrive as BpfError."""
    libbpf_set_print(NULL)


def _last_reason(log: bytearray) -> str:
    """The last line of the verifier's log that says why."""
    lines = log.partition(b"\0")[0].decode(errors="replace").splitlines()
    reasons = (line for line in reversed(lines) if line.strip() and not line.startswith(NO_REASONS))
    return next(reasons, "").strip()


cdef class Object:
    """An object file, loaded, and the one of its programs that is attached. With `pins`, its maps are
    kept in that directory of a BPF file system, and those already there are used on.

    Raises BpfError: ENOENT for no such file, EPERM without its capabilities, EINVAL
    for pinned maps of another layout.
    """

    cdef bpf_object *obj
    cdef int program
    cdef kdht_bucket_cell *cells

    def __cinit__(self, path: str, program: str, pins=None):
        cdef bpf_map *at = NULL
        cdef bytearray log = bytearray(LOG_SIZE)
        cdef bpf_object_open_opts opts
        memset(&opts, 0, sizeof(opts))
        opts.sz = sizeof(opts)
        opts.kernel_log_buf, opts.kernel_log_size, opts.kernel_log_level = log, LOG_SIZE, LOG_STATS
        self.obj = bpf_object__open_file(os.fsencode(path), &opts)
        if self.obj is NULL:
            _check(-errno, f"open the BPF object {path}")
        if pins is not None:
            at = bpf_object__next_map(self.obj, NULL)
            while at is not NULL:
                if not bpf_map__is_internal(at) and <bytes>bpf_map__name(at) != UNPINNED:
                    place = os.fsencode(pins) + b"/" + <bytes>bpf_map__name(at)
                    _check(bpf_map__set_pin_path(at, place), "pin a map")
                at = bpf_object__next_map(self.obj, at)
        try:
            _check(bpf_object__load(self.obj), f"load the BPF object {path}")
        except BpfError as error:
            error.verifier = _last_reason(log)
            raise
        self.program = self._program(program)
        if bpf_object__find_map_by_name(self.obj, BUCKETS) is not NULL:
            self._map_buckets()

    cdef _map_buckets(self):
        cdef int fd = self._map(BUCKETS.decode())
        cdef void *at = c_mmap(NULL, CELLS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if at == MAP_FAILED:
            raise BpfError(errno, f"cannot map the buckets: {os.strerror(errno)}")
        self.cells = <kdht_bucket_cell *>at

    def __dealloc__(self):
        if self.cells is not NULL:
            c_munmap(<void *>self.cells, CELLS_SIZE)
        if self.obj is not NULL:
            bpf_object__close(self.obj)

    @property
    def program_fd(self) -> int:
        return self.program

    cdef int _program(self, name) except -1:
        cdef bpf_program *found = bpf_object__find_program_by_name(self.obj, name.encode())
        if found is NULL:
            _check(-2, f"find the program {name}")
        return bpf_program__fd(found)

    cdef int _map(self, name) except -1:
        cdef bpf_map *found = bpf_object__find_map_by_name(self.obj, name.encode())
        if found is NULL:
            _check(-2, f"find the map {name}")
        return bpf_map__fd(found)

    def update(self, name: str, key: bytes, value: bytes) -> None:
        """Replace the element `key`. Both sizes must be those of the map."""
        cdef const uint8_t *key_at = key
        cdef const uint8_t *value_at = value
        _check(bpf_map_update_elem(self._map(name), key_at, value_at, BPF_ANY), f"write to the map {name}")

    def update_whole(self, name: str, value: bytes) -> None:
        """Replace the only element of the map of maps by an array with one element, `value`.

        So a packet sees the old value or the new one, and nothing between.
        """
        cdef const uint8_t *value_at = value
        cdef uint32_t zero = 0
        cdef uint32_t size = <uint32_t>len(value)
        cdef int inner = _check(
            bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, sizeof(zero), size, 1, NULL), "make a map")
        try:
            _check(bpf_map_update_elem(inner, &zero, value_at, BPF_ANY), "fill a map")
            _check(bpf_map_update_elem(self._map(name), &zero, &inner, BPF_ANY), f"write to the map {name}")
        finally:
            os.close(inner)

    def use_hot(self, fd: int) -> None:
        """Answer from this map that `make_hot` made."""
        cdef uint32_t zero = 0
        cdef int inner = fd
        _check(bpf_map_update_elem(self._map("kdht_hot"), &zero, &inner, BPF_ANY),
               "write to the map kdht_hot")

    def write_bucket(self, index: int, bucket: bytes) -> None:
        """Publish a struct kdht_bucket. Packets see all of it or none. One writer at a time.

        A writer that is killed half way leaves one whole copy, as in the core's region (kdht_region.h).
        """
        cdef kdht_bucket_cell *cell = &self.cells[index]
        cdef kdht_near_bucket *made
        cdef const uint8_t *bucket_at = bucket
        if not 0 <= index < KDHT_ID_BITS or len(bucket) != sizeof(kdht_bucket):
            raise ValueError("no such bucket")
        kdht_seq_fence()
        made = &cell.copies[~cell.sequence & 1]
        memcpy(&made.bucket, bucket_at, sizeof(kdht_bucket))
        kdht_fill_nearest(made, index)
        kdht_seq_step(&cell.sequence)

    def update_trie(self, name: str, elements) -> None:
        """Replace the only element of the map of maps by a trie of these (key, value); the value is a u32.

        So a packet sees the old trie or the new one.
        """
        cdef uint32_t zero = 0, value
        cdef const uint8_t *key_at
        cdef bpf_map_create_opts opts
        cdef int inner
        memset(&opts, 0, sizeof(opts))
        opts.sz, opts.map_flags = sizeof(opts), BPF_F_NO_PREALLOC
        inner = _check(bpf_map_create(BPF_MAP_TYPE_LPM_TRIE, NULL, sizeof(kdht_prefix) - sizeof(value),
                                      sizeof(value), KDHT_MAX_PREFIXES, &opts), "make a map")
        try:
            for key, value in elements:
                key_at = <bytes>key
                _check(bpf_map_update_elem(inner, key_at, &value, BPF_ANY), "fill a map")
            _check(bpf_map_update_elem(self._map(name), &zero, &inner, BPF_ANY), f"write to the map {name}")
        finally:
            os.close(inner)

    def per_cpu(self, name: str, count: int) -> list:
        """Elements 0 to count - 1 of a per-CPU array of u64, each summed over all CPUs."""
        cdef int fd = self._map(name), cpus = _check(libbpf_num_possible_cpus(), "count the CPUs")
        cdef uint64_t values[1024]
        cdef uint32_t key
        cdef int i
        cdef list totals = []
        if cpus > 1024:
            raise BpfError(7, "cannot count on more than 1024 CPUs")
        for key in range(count):
            _check(bpf_map_lookup_elem(fd, &key, values), f"read the map {name}")
            total = 0
            for i in range(cpus):
                total += values[i]
            totals.append(total)
        return totals

    def test_run(self, frame: bytes, repeat: int = 1, ifindex: int = 0, program: str = ""):
        """Run the program on a frame in the kernel: (result, frame out, nanoseconds a run).

        `ifindex`: where it seems to come in, 0 for lo. What a run changes, the next one finds changed.
        `program`: another one of the object's programs.
        """
        cdef int fd = self._program(program) if program else self.program
        cdef uint32_t context[6]
        cdef bpf_test_run_opts opts
        cdef uint8_t out[4096]
        cdef const uint8_t *data = frame
        memset(&opts, 0, sizeof(opts))
        opts.sz = sizeof(opts)
        opts.data_in, opts.data_size_in = data, <uint32_t>len(frame)
        opts.data_out, opts.data_size_out = out, sizeof(out)
        opts.repeat = repeat
        if ifindex:
            memset(context, 0, sizeof(context))
            context[1], context[3] = <uint32_t>len(frame), ifindex
            opts.ctx_in, opts.ctx_size_in = context, sizeof(context)
        _check(bpf_prog_test_run_opts(fd, &opts), "run the program")
        return opts.retval, out[:opts.data_size_out], opts.duration

    def live_frames(self, frame: bytes, repeat: int, ifindex: int, batch: int = 64) -> None:
        """Run the program on `repeat` copies of the frame as if they arrived at `ifindex`.

        Frames that it redirects or sends really leave. Blocks until all are done.
        """
        cdef bpf_test_run_opts opts
        cdef const uint8_t *data = frame
        cdef uint32_t context[6]
        cdef int result
        memset(&opts, 0, sizeof(opts))
        memset(context, 0, sizeof(context))
        context[1], context[3] = <uint32_t>len(frame), ifindex
        opts.sz = sizeof(opts)
        opts.data_in, opts.data_size_in = data, <uint32_t>len(frame)
        opts.ctx_in, opts.ctx_size_in = context, sizeof(context)
        opts.repeat, opts.batch_size, opts.flags = repeat, batch, BPF_F_TEST_XDP_LIVE_FRAMES
        with nogil:
            result = bpf_prog_test_run_opts(self.program, &opts)
        _check(result, "generate live frames")

    def info(self) -> dict:
        """The loaded program's ID, the instructions that the verifier walked, its bytes before and after
        JIT.
        """
        cdef bpf_prog_info info
        cdef uint32_t size = sizeof(info)
        memset(&info, 0, sizeof(info))
        _check(bpf_obj_get_info_by_fd(self.program, &info, &size), "ask for the program's information")
        return {"id": info.id, "verified_insns": info.verified_insns,
                "xlated_bytes": info.xlated_prog_len, "jited_bytes": info.jited_prog_len}


def state(config: bytes, networks, *, any_bucket: bool = False, clock_offset: int = 0, now: int = 0,
          flags: int = 0, prices=(0, 0, 0), only: int = 0) -> bytes:
    """struct kdht_xdp_state, the element of the map kdht_states, around a struct kdht_config.

    `networks`: networks.Network, at most MAX_NETWORKS; frames of others pass up. `clock_offset` in
    nanoseconds, `prices` as ClientRates has them. `any_bucket`: look into every bucket, whatever the
    configuration says is empty.
    `only`: not 0: all messages pass up but those whose request IDs begin with these 32 bits.
    """
    cdef kdht_xdp_state packed
    cdef const uint8_t *config_at = config
    memset(&packed, 0, sizeof(packed))
    memcpy(&packed.config, config_at, sizeof(packed.config))
    if any_bucket:
        memset(packed.config.occupancy, 0xff, sizeof(packed.config.occupancy))
    packed.settings.clock_offset, packed.settings.now, packed.settings.flags = clock_offset, now, flags
    for i, price in enumerate(prices):
        packed.settings.rates.prices[<int>i] = price
    packed.settings.only = htonl(only)
    for network in networks:
        _add_link(&packed, network)
    return (<uint8_t *>&packed)[:sizeof(packed)]


cdef _add_link(kdht_xdp_state *packed, network):
    cdef kdht_link *link = &packed.links[packed.link_count]
    cdef bytes mac = network.mac
    if packed.link_count == KDHT_MAX_LINKS or len(mac) != 6:
        raise ValueError(f"at most {KDHT_MAX_LINKS} networks, with addresses of 6 bytes")
    packed.link_count += 1
    link.ifindex, link.device = network.ifindex, network.device
    link.vlan = 0 if network.vlan is None else network.vlan + 1
    link.flags = KDHT_LINK_GENERIC if network.generic else 0
    memcpy(link.mac, <const uint8_t *>mac, 6)


def make_hot(size: int) -> int:
    """A map (file descriptor) with one element of `size` bytes, all zero, that can be mapped into memory."""
    cdef bpf_map_create_opts opts
    memset(&opts, 0, sizeof(opts))
    opts.sz, opts.map_flags = sizeof(opts), BPF_F_MMAPABLE
    return _check(bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, sizeof(uint32_t), size, 1, &opts), "make a map")


def program_name(program_id: int) -> str:
    """The name of a loaded program, 15 characters at most. Raises BpfError (ENOENT)."""
    cdef bpf_prog_info info
    cdef uint32_t size = sizeof(info)
    cdef int fd = _check(bpf_prog_get_fd_by_id(program_id), f"look at the program {program_id}")
    memset(&info, 0, sizeof(info))
    try:
        _check(bpf_obj_get_info_by_fd(fd, &info, &size), "ask for the program's information")
    finally:
        os.close(fd)
    return info.name.decode(errors="replace")


def link_info(link_fd: int) -> dict:
    """An XDP link's program ID and interface. Interface 0: it is gone, or the program was detached."""
    cdef bpf_link_info info
    cdef uint32_t size = sizeof(info)
    memset(&info, 0, sizeof(info))
    _check(bpf_obj_get_info_by_fd(link_fd, &info, &size), "ask for the link's information")
    return {"program": info.prog_id, "ifindex": info.xdp.ifindex}


def attach(program_fd: int, ifindex: int, native: bool) -> int:
    """A link (file descriptor) of the program to the interface; it goes when the last holder does.

    Raises BpfError: EBUSY if another XDP program is there, EOPNOTSUPP without native support.
    """
    cdef bpf_link_create_opts opts
    memset(&opts, 0, sizeof(opts))
    opts.sz = sizeof(opts)
    opts.flags = XDP_FLAGS_DRV_MODE if native else XDP_FLAGS_SKB_MODE
    return _check(bpf_link_create(program_fd, ifindex, BPF_XDP, &opts), "attach the XDP program")


def replace(link_fd: int, program_fd: int) -> None:
    """Put another program behind a link, atomically: every packet meets one of the two."""
    _check(bpf_link_update(link_fd, program_fd, NULL), "replace the XDP program")


def detach(link_fd: int) -> None:
    """Detach the link's program from its interface, whoever else holds the link."""
    _check(bpf_link_detach(link_fd), "detach the XDP program")


def pin(fd: int, path: str) -> None:
    """Pin a link or program in the BPF file system, so that it outlives this process."""
    _check(bpf_obj_pin(fd, os.fsencode(path)), f"pin at {path}")


def open_pinned(path: str) -> int:
    """A file descriptor of the object pinned at a path. Raises BpfError (ENOENT) if there is none."""
    return _check(bpf_obj_get(os.fsencode(path)), f"open {path}")
