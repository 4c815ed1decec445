"""The table [access] of the configuration: who may read and write. It is a module of its own, because it is long."""

from typing import Annotated

from msgspec import Meta, Struct

from kdht.config.key_schema import AccessKeySection
from kdht.config.values import Holder, ScopeName
from kdht.node.access import Mode
from kdht.wire._shared import KEY_SLOTS

MAX_OPEN_SCOPES = 64
MAX_REVOKED = 1024


class AccessSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Who may read and write. The same on all nodes. SIGHUP reads it again."""

    writes: Annotated[
        Mode | None,
        Meta(
            description="PUT and DELETE: `token` refuses a request without a token's proof; `count` lets all through and "
            "counts the ones that `token` would refuse; `open` asks nothing. Left out, it is `token`, or `open` on a node "
            "without an access key whose addresses are all loopback.",
            examples=["token"],
        ),
    ] = None
    reads: Annotated[Mode, Meta(description="The same for GET, QUORUM_GET and WATCH.")] = "open"
    open_scopes: Annotated[
        list[ScopeName],
        Meta(
            max_length=MAX_OPEN_SCOPES,
            description="Scopes where everybody may do everything: kdhtctl token new --open makes a token for one without a "
            "secret.",
            examples=[["scratch"]],
        ),
    ] = []
    revoked: Annotated[
        list[Holder],
        Meta(
            max_length=MAX_REVOKED,
            description="Holders whose tokens are no longer accepted, by name or number. A token that has expired need not "
            "stand here.",
            examples=[["ci-1", "0123456789abcdef"]],
        ),
    ] = []
    key: Annotated[list[AccessKeySection], Meta(max_length=KEY_SLOTS)] = []

    def __post_init__(self) -> None:
        epochs = [key.epoch for key in self.key]
        if len(set(epochs)) != len(epochs):
            raise ValueError(f"each access key needs its own epoch, not {epochs}: change access.key.epoch")
