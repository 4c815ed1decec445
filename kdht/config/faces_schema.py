"""The tables [dns], [http] and [tracker] of the configuration: the faces, servers of other protocols beside the node."""

from typing import Annotated

from msgspec import Meta, Struct

from kdht.config.values import AbsolutePath, FaceEndpoint, HttpName, Origin, ScopeName, ZoneName

# Each address is a socket. More than a host's few addresses is a mistake.
MAX_LISTEN = 16
MAX_NAMESERVERS = 13
"""As many as the root zone has. More would not fit into 512 bytes."""
Rate = Annotated[int, Meta(ge=0, le=10_000_000)]


class DnsSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """DNS: authoritative for one zone, whose names are sets and records (docs/faces.md). Off without `listen`."""

    listen: Annotated[
        list[FaceEndpoint],
        Meta(
            max_length=MAX_LISTEN,
            description="Addresses for queries, by UDP and TCP.",
            examples=[["127.0.0.1:5353"]],
        ),
    ] = []
    zone: Annotated[ZoneName, Meta(description="The zone.")] = ZoneName("kdht.")
    nameservers: Annotated[
        list[ZoneName],
        Meta(
            max_length=MAX_NAMESERVERS,
            description="The zone's name servers, for NS and SOA; empty: `ns` in the zone, which has the addresses of `listen`.",
            examples=[["dns1.example.", "dns2.example."]],
        ),
    ] = []
    scope: Annotated[
        ScopeName | None,
        Meta(description="The scope of the names. Left out, the one of the token.", examples=["services"]),
    ] = None
    ttl: Annotated[
        int,
        Meta(
            ge=0,
            le=86400,
            description="The most seconds for which resolvers may keep an answer: for so long a member may be seen after it "
            "has withdrawn. One that ends without a word is gone at its own TTL.",
        ),
    ] = 5
    negative_ttl: Annotated[
        int,
        Meta(
            ge=0,
            le=3600,
            description="The same for the answer that there is no such name: so late a new one may be seen.",
        ),
    ] = 5
    rate: Annotated[
        Rate,
        Meta(
            description="A client's queries per second, from one IPv4 address or IPv6 /64; the rest is dropped. 0: no limit."
        ),
    ] = 1000
    unproven_rate: Annotated[
        Rate,
        Meta(
            description="Answers per second, longer than their question, to an IPv4 /24 or IPv6 /64 that may be forged: by UDP, "
            "without a DNS cookie. Who asks more is told to use TCP. 0: no limit."
        ),
    ] = 100
    token_file: Annotated[
        AbsolutePath | None,
        Meta(
            description="The file of a token to read with, where access.reads asks for one.",
            examples=["/etc/kdht/dns-token"],
        ),
    ] = None


class HttpSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """HTTP: values and sets for who has no library but curl (docs/faces.md). Off without `listen`."""

    listen: Annotated[
        list[FaceEndpoint],
        Meta(max_length=MAX_LISTEN, description="Addresses for requests.", examples=[["127.0.0.1:5381"]]),
    ] = []
    tls_certificate: Annotated[
        AbsolutePath | None,
        Meta(
            description="The file of the certificate and those above it, in PEM. With it, all addresses speak TLS.",
            examples=["/etc/kdht/http.pem"],
        ),
    ] = None
    tls_key: Annotated[
        AbsolutePath | None,
        Meta(description="The file of the certificate's key, in PEM.", examples=["/etc/kdht/http.key"]),
    ] = None
    rate: Annotated[
        Rate,
        Meta(
            description="A client's requests per second, from one IPv4 address or IPv6 /64; the rest is refused. 0: no limit."
        ),
    ] = 1000
    connections: Annotated[
        int, Meta(ge=1, le=65536, description="Connections at once. An idle one gives way to a new one.")
    ] = 512
    connections_per_client: Annotated[
        int,
        Meta(
            ge=1,
            le=65536,
            description="Of these, from one IPv4 address or IPv6 /64. Behind a proxy all clients have its address.",
        ),
    ] = 128
    names: Annotated[
        list[HttpName],
        Meta(
            max_length=64,
            description='Names of this server in URLs, beside addresses, localhost and the host\'s name; "*" for any. A request for another '
            "name is refused, so that no web page takes the server's answers for its own. With TLS any name is answered.",
            examples=[["kv.example.org"]],
        ),
    ] = []
    cors: Annotated[
        list[Origin],
        Meta(
            max_length=64,
            description='Web pages that may read answers (CORS), by origin; "*" for any.',
            examples=[["https://app.example.org"]],
        ),
    ] = []

    def __post_init__(self) -> None:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("http.tls_certificate and http.tls_key go together: set both, or none")


class TrackerSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A BitTorrent tracker, by UDP (BEP 15), whose swarms are sets (docs/faces.md). Off without `listen`."""

    listen: Annotated[
        list[FaceEndpoint],
        Meta(max_length=MAX_LISTEN, description="Addresses for clients.", examples=[["10.0.0.1:6969"]]),
    ] = []
    interval: Annotated[
        int,
        Meta(
            ge=60,
            le=28800,
            description="Seconds between a client's announces. One that is silent for twice as long is forgotten.",
        ),
    ] = 900
    scope: Annotated[
        ScopeName | None,
        Meta(
            description="The scope of the swarms' sets. Left out, it is the token's, or none.",
            examples=["tracker"],
        ),
    ] = None
    rate: Annotated[
        Rate,
        Meta(
            description="A client's announces and scrapes per second, from one IPv4 address or IPv6 /64; the rest is dropped. "
            "0: no limit."
        ),
    ] = 20
    token_file: Annotated[
        AbsolutePath | None,
        Meta(
            description="The file of a token to announce and read with, where [access] asks for one.",
            examples=["/etc/kdht/tracker-token"],
        ),
    ] = None
