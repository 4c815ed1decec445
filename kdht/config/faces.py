"""What the process of the faces is told: their tables, where its node is, whom it serves, and keys for cookies.

kdhtd sends it as JSON to its child; kdht-faces makes it from a configuration of its own.
"""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec
from msgspec import Struct

from kdht.config.faces_schema import DnsSection, HttpSection, TrackerSection
from kdht.config.reading import text_kind
from kdht.config.schema import LogFormat, LogLevel
from kdht.config.settings import Settings
from kdht.config.values import Prefix
from kdht.datapath.senders import Network, Senders


class SenderLists(Struct, frozen=True, kw_only=True):
    """The lists of addresses in [access], as JSON can have them."""

    allowed: list[Prefix] = []
    refused: list[Prefix] = []
    write_allowed: list[Prefix] = []
    write_refused: list[Prefix] = []

    @classmethod
    def of(cls, senders: Senders) -> "SenderLists":
        return cls(
            allowed=_texts(senders.allowed),
            refused=_texts(senders.refused),
            write_allowed=_texts(senders.write_allowed),
            write_refused=_texts(senders.write_refused),
        )

    @property
    def senders(self) -> Senders:
        lists = (self.allowed, self.refused, self.write_allowed, self.write_refused)
        return Senders(*(tuple(prefix.network for prefix in prefixes) for prefixes in lists))


def _texts(networks: Sequence[Network]) -> list[Prefix]:
    return [Prefix(str(network)) for network in networks]


class FacesJob(Struct, frozen=True, kw_only=True):
    """All that faces need to know."""

    nodes: list[str]
    """The addresses of the node beside them."""
    cookie_keys: list[bytes]
    """The same beside all nodes, the one to make cookies with first. Each face derives its own from them."""
    clients: SenderLists
    """Whom the faces serve: the node sees the address of the face in place of its clients'."""
    dns: DnsSection = DnsSection()
    http: HttpSection = HttpSection()
    tracker: TrackerSection = TrackerSection()
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    @property
    def wanted(self) -> dict[str, DnsSection | HttpSection | TrackerSection]:
        """The tables of the faces that are switched on, by name."""
        sections: dict[str, DnsSection | HttpSection | TrackerSection]
        sections = {"dns": self.dns, "http": self.http, "tracker": self.tracker}
        return {name: section for name, section in sections.items() if section.listen}

    @property
    def ports(self) -> list[int]:
        """All that they listen at."""
        return [at.port for section in self.wanted.values() for at in section.listen]

    def pack(self) -> bytes:
        """One line of JSON. It has secrets in it."""
        return msgspec.json.encode(self, enc_hook=str) + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "FacesJob":
        """From `pack`. Raises msgspec.ValidationError, msgspec.DecodeError."""
        return msgspec.json.decode(line, type=cls, dec_hook=text_kind)


def job_of(settings: Settings) -> FacesJob:
    """The faces of a configuration."""
    config = settings.config
    return FacesJob(
        # Not the anycast ones: the node beside the faces shall answer, and no other.
        nodes=[str(address) for address in settings.unicast],
        # Not the node's own ones: whoever takes a face over must not make cookies for the node.
        cookie_keys=[
            blake2b(b"", digest_size=len(key.cookie), key=key.cookie, person=b"kdht-faces").digest()
            for key in settings.keys
        ],
        clients=SenderLists.of(settings.senders),
        dns=config.dns,
        http=config.http,
        tracker=config.tracker,
        log_level=config.log.level,
        log_format=config.log.format,
    )
