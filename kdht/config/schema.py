"""The daemon's configuration: the one place that lists, documents and bounds every field.

A struct is a TOML table. example.py makes docs/kdhtd.toml from the descriptions here. reading.py fills the structs from
a file.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from kdht.config.access_schema import AccessSection
from kdht.config.faces_schema import DnsSection, HttpSection, TrackerSection
from kdht.config.key_schema import KeySection
from kdht.config.places import DATA_DIR, SOCKET
from kdht.config.values import (
    AbsolutePath,
    Endpoint,
    HostName,
    HostPort,
    HttpEndpoint,
    Interface,
    Ip,
    NodeId,
    SocketPath,
)
from kdht.wire._shared import HOP_LIMIT, KEY_SLOTS, MAX_OWN, MAX_REPLICAS, PORT, REPLAY_WINDOW, K
from kdht.wire.limits import MAX_TTL

DatapathKind = Literal["auto", "socket", "nfqueue", "ebpf"]
Mebibytes = Annotated[int, Meta(ge=0, le=1 << 30)]
Acks = Literal["one", "quorum", "all"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


class NodeSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """This node: where it listens, whom it knows, where its data lies."""

    listen: Annotated[
        list[Endpoint],
        Meta(
            min_length=1,
            max_length=MAX_OWN,
            description="Addresses to listen on, all with the same port (5348 if none is given). Other nodes learn the "
            "first one.",
            examples=[["10.0.0.1"]],
        ),
    ]
    bootstrap: Annotated[
        list[HostPort],
        Meta(
            max_length=64,
            description="Other nodes to join the cluster through; empty for the first node. Names are "
            "resolved at start, and again while the node knows nobody. A name _kdht._udp.DOMAIN stands for its SRV records: "
            "hosts with ports.",
            examples=[["10.0.0.2", "10.0.0.3"]],
        ),
    ] = []
    discover: Annotated[
        bool,
        Meta(
            description="Find the other nodes on the links of `listen` by multicast, and let them find this one: UDP port 5347 to "
            "239.255.53.48 and ff02::4b44:4854, never farther than one link. Beside `bootstrap`, or in place of it. The same on all "
            "nodes of a link."
        ),
    ] = False
    id: Annotated[
        NodeId,
        Meta(
            description="The node's ID: its place among the others, chosen at its first start and kept in `data_dir`. "
            "`balanced`: in the widest gap, with half of the greatest owner's keys; `random`: anywhere, so some nodes own "
            "several times the mean; or the ID itself."
        ),
    ] = NodeId("balanced")
    data_dir: Annotated[
        AbsolutePath,
        Meta(description="The node's ID, its records and its last contacts. One daemon per directory."),
    ] = AbsolutePath(str(DATA_DIR))
    advertise: Annotated[
        list[Ip],
        Meta(
            max_length=MAX_OWN,
            description="The addresses of this node for other nodes, when `listen` is a wildcard (0.0.0.0 or ::). An interface "
            "of this host must have them: a node cannot work behind address translation. Clients may ask at the host's other "
            "addresses too, if the other nodes can reach those.",
        ),
    ] = []
    freebind: Annotated[
        bool,
        Meta(
            description="Start with addresses that this host does not have yet, such as a standby's that keepalived "
            "moves here later (IP_FREEBIND). nfqueue and ebpf then need `datapath.interfaces`."
        ),
    ] = False
    lame_duck: Annotated[
        int,
        Meta(
            ge=0,
            le=3600,
            description="Seconds that the node serves on after SIGTERM. /readyz fails from the first one on, so load "
            "balancers and routes turn away before it ends. A second SIGTERM ends it at once.",
        ),
    ] = 0
    anycast: Annotated[
        list[Ip],
        Meta(
            max_length=MAX_OWN,
            description="Addresses shared by several nodes, so that clients need only one. They must be set on this host.",
        ),
    ] = []
    cookies: Annotated[
        bool,
        Meta(
            description="Send large replies only to clients that proved their address. Switch it off only "
            "where no outsider can send packets. The same on all nodes."
        ),
    ] = True
    hop_limit: Annotated[
        int, Meta(ge=1, le=255, description="Nodes that a request may visit, unless its client limits them.")
    ] = HOP_LIMIT
    replay_window: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="Seconds by which the clocks of two nodes may differ; older messages are dropped.",
        ),
    ] = REPLAY_WINDOW
    bucket_size: Annotated[
        int,
        Meta(
            ge=1,
            le=K,
            description="Contacts in each bucket of the routing table. Fewer make tables smaller and routes longer; at "
            "least replication.replicas.",
        ),
    ] = K


class DatapathSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How packets are treated. The socket datapath always lies underneath."""

    kind: Annotated[
        DatapathKind,
        Meta(
            description="`nfqueue` re-addresses packets in the kernel's path and needs root and nftables; "
            "`ebpf` does so with an XDP program at the interface, and needs root, clang and libbpf when kdht "
            "is installed; `socket` needs nothing; `auto` takes nfqueue if it works here."
        ),
    ] = "auto"
    interfaces: Annotated[
        list[Interface],
        Meta(
            max_length=64,
            description="Interfaces whose packets are diverted; empty: those with a `listen` address.",
        ),
    ] = []
    queues: Annotated[
        int,
        Meta(
            ge=1, le=16, description="Queues, each with a thread of the worker process: at most one per core."
        ),
    ] = 1
    first_queue: Annotated[
        int, Meta(ge=0, le=65519, description="Number of the first queue: other programs may use others.")
    ] = PORT
    queue_length: Annotated[
        int,
        Meta(ge=1, le=65536, description="Packets that may wait in a queue; more go to the socket datapath."),
    ] = 4096
    rate: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="A client's GETs per second, from one IPv4 address or IPv6 /64; the rest is dropped. Of QUORUM_GET, "
            "WATCH and TRACE, which cost more, an eighth of it. 0: no limit.",
        ),
    ] = 0
    write_rate: Annotated[
        Annotated[int, Meta(ge=0, le=10_000_000)] | None,
        Meta(
            description="The same for PUT and DELETE. Left out, it is `rate`.",
            examples=[100],
        ),
    ] = None
    ebpf_keep: Annotated[
        bool,
        Meta(
            description="Leave the XDP program attached when the daemon stops: it routes packets by its last table "
            "until the next start."
        ),
    ] = False
    table: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z_][A-Za-z0-9_-]{0,31}$",
            description="Name of the nft table for diverting packets. Two nodes on one host need two tables, and other queues.",
        ),
    ] = "kdht"


class StorageSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The records in LevelDB. A write is answered when it is safe on the disk."""

    sweep_interval: Annotated[
        int, Meta(ge=1, le=86400, description="Seconds between removals of expired records.")
    ] = 30
    max_waiting: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Writes that may wait for the disk; clients with more are told BUSY.",
        ),
    ] = 8192
    cache: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="MiB for the cache of recently read or written records, answered without the disk; 0: none.",
        ),
    ] = 4
    write_buffer: Annotated[
        int,
        Meta(
            ge=2,
            le=256,
            description="MiB of new records that LevelDB keeps in memory, twice at most, before it writes a table of them. A large "
            "one spares the disk: records are merged less often. A start reads as much again. At most a sixteenth of the disk.",
        ),
    ] = 32
    quota: Annotated[
        Mebibytes,
        Meta(
            description="MiB of values from which on clients' values are refused (FULL); 0: no quota. Other nodes' records "
            "have an eighth more.",
        ),
    ] = 0
    quota_records: Annotated[int, Meta(ge=0, le=1 << 40, description="The same in records.")] = 0
    writer_quota: Annotated[
        Mebibytes,
        Meta(
            description="MiB of values that one writer may put by this node, about; 0: no quota. A writer is an IPv4 "
            "address or an IPv6 network of 64 bits.",
        ),
    ] = 0
    writer_quota_records: Annotated[int, Meta(ge=0, le=1 << 40, description="The same in records.")] = 0
    max_ttl: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_TTL,
            description="Seconds that clients may have a value kept; longer, or without an end: FULL. 0: no limit.",
        ),
    ] = 0
    min_free: Annotated[
        Mebibytes,
        Meta(
            description="MiB of free disk space below which clients' values are refused (FULL). Other nodes' records are "
            "refused below half of it, deletions below `write_buffer` and a quarter of it. On a small disk five eighths of the disk are enough.",
        ),
    ] = 64


class ReplicationSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How many nodes keep each record. The same on all nodes."""

    replicas: Annotated[
        int,
        Meta(ge=1, le=MAX_REPLICAS, description="Nodes that keep each record: the closest to its key."),
    ] = 3
    write: Annotated[
        Acks,
        Meta(
            description="Nodes with a write on their disks before it is confirmed: `one`, `quorum` (more than half of the "
            "replicas) or `all`."
        ),
    ] = "quorum"
    tombstone_ttl: Annotated[
        int,
        Meta(
            ge=60,
            le=31_536_000,
            description="Seconds to remember a deletion. After a longer absence a node's own records count only if other "
            "nodes confirm them.",
        ),
    ] = 86400
    repair_rate: Annotated[
        int,
        Meta(
            ge=10,
            le=100_000,
            description="The most datagrams a second for comparing records with other nodes and moving them. Below that, repair "
            "adapts to network and disks beside the clients' traffic; a slow line needs a bound.",
        ),
    ] = 10_000


class ControlSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The socket that kdhtctl talks to."""

    socket: Annotated[SocketPath, Meta(description="The socket's file.")] = SocketPath(str(SOCKET))
    group: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="The group that may use it, beside root and the daemon's own user.", examples=["kdht"]
        ),
    ] = None


class MetricsSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Figures for Prometheus (/metrics), and whether the node lives (/healthz) and should serve (/readyz),
    over HTTP. Who can connect can read them all; there are no keys and no values among them."""

    listen: Annotated[
        HttpEndpoint | None,
        Meta(
            description="Where they are served; nowhere if this is left out.",
            examples=["127.0.0.1:9548"],
        ),
    ] = None
    names: Annotated[
        list[HostName],
        Meta(
            max_length=16,
            description="Names by which /metrics may be asked, beside numeric addresses, localhost and this host's "
            "own name. Others are refused: a foreign web page may have its name pointed here.",
        ),
    ] = []


class WebSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A page for a browser: the cluster as this node sees it. It can change nothing."""

    listen: Annotated[
        HttpEndpoint | None,
        Meta(
            description="Where it is served; nowhere if this is left out. May be the same as metrics.listen.",
            examples=["127.0.0.1:5380"],
        ),
    ] = None
    remote: Annotated[
        bool,
        Meta(
            description="Let `listen` be an address that is not loopback: everybody who can connect sees the "
            "cluster's addresses, and can have keys traced."
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.listen and not self.listen.is_loopback and not self.remote:
            raise ValueError(
                f"web.listen is {self.listen}, which is not loopback: set web.remote to true to allow that"
            )


class LogSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What is written to standard error."""

    level: Annotated[LogLevel, Meta(description="The least important that is written.")] = "info"
    format: Annotated[
        LogFormat,
        Meta(description="`text`: one line of key=value pairs; `json`: one object a line."),
    ] = "text"


class Config(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The whole file."""

    node: NodeSection
    key: Annotated[list[KeySection], Meta(min_length=1, max_length=KEY_SLOTS)]
    access: AccessSection = AccessSection()
    datapath: DatapathSection = DatapathSection()
    storage: StorageSection = StorageSection()
    replication: ReplicationSection = ReplicationSection()
    control: ControlSection = ControlSection()
    metrics: MetricsSection = MetricsSection()
    web: WebSection = WebSection()
    dns: DnsSection = DnsSection()
    http: HttpSection = HttpSection()
    tracker: TrackerSection = TrackerSection()
    log: LogSection = LogSection()

    def __post_init__(self) -> None:
        size, replicas = self.node.bucket_size, self.replication.replicas
        if size < replicas:
            raise ValueError(
                f"node.bucket_size is {size}, fewer than the {replicas} replicas: set it to {replicas} or more"
            )
        epochs = [key.epoch for key in self.key]
        if len(set(epochs)) != len(epochs):
            raise ValueError(f"each key needs its own epoch, not {epochs}: change key.epoch")
