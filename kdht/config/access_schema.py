"""The table [access] of the configuration: who may read and write. It is a module of its own, because it is long."""

from typing import Annotated

from msgspec import Meta, Struct

from kdht.config.key_schema import AccessKeySection
from kdht.config.values import Holder, Prefix, ScopeName
from kdht.node.access import Mode
from kdht.wire._shared import KEY_SLOTS, MAX_PREFIXES

# A scope covers a whole namespace of keys, so more of them are a mistake.
MAX_OPEN_SCOPES = 64
# Where more holders must go, a new access key ends all tokens of the old one at once.
MAX_REVOKED = 1024
MAX_PER_LIST = (MAX_PREFIXES - 2) // 4  # two more stand for everybody else


class AccessSection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, rename={"from_": "from"}):
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
    from_: Annotated[
        list[Prefix],
        Meta(
            max_length=MAX_PER_LIST,
            description="Networks whose clients this node and its faces serve; empty: all. Other clients' requests are dropped. "
            "Members of the cluster are never concerned.",
            examples=[["10.0.0.0/8", "fd00::/16"]],
        ),
    ] = []
    not_from: Annotated[
        list[Prefix],
        Meta(
            max_length=MAX_PER_LIST,
            description="Networks whose clients it does not serve, whatever `from` says.",
            examples=[["10.66.0.0/16"]],
        ),
    ] = []
    write_from: Annotated[
        list[Prefix],
        Meta(
            max_length=MAX_PER_LIST,
            description="Networks whose clients may write (PUT, DELETE, ANNOUNCE, WITHDRAW), of those that it serves; empty: all.",
            examples=[["10.1.0.0/16"]],
        ),
    ] = []
    write_not_from: Annotated[
        list[Prefix],
        Meta(
            max_length=MAX_PER_LIST,
            description="Networks whose clients may only read, whatever `write_from` says.",
            examples=[["10.1.99.0/24"]],
        ),
    ] = []
    write_cookie: Annotated[
        bool,
        Meta(
            description="Take a PUT or DELETE only from a client that proved its address with a cookie: nobody can write with a "
            "forged source. A client without one needs one round trip more, every two minutes."
        ),
    ] = False
    key: Annotated[list[AccessKeySection], Meta(max_length=KEY_SLOTS)] = []

    def __post_init__(self) -> None:
        epochs = [key.epoch for key in self.key]
        if len(set(epochs)) != len(epochs):
            raise ValueError(f"each access key needs its own epoch, not {epochs}: change access.key.epoch")
