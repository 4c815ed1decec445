"""The tables of secrets in the configuration: the cluster's, and those that tokens are made with."""

from typing import Annotated

from msgspec import Meta, Struct

from kdht.config.values import AbsolutePath
from kdht.wire.keys import MIN_SECRET


class KeySection(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The cluster's shared secret, the same on all nodes. The first key signs; both are accepted,
    so that it can be changed while traffic flows."""

    epoch: Annotated[
        int, Meta(ge=0, le=255, description="The secret's number: a new secret, a new number.")
    ] = 0
    file: Annotated[
        AbsolutePath | None,
        Meta(
            description=f"The file with the secret, {MIN_SECRET} bytes or more, readable by the daemon only.",
            examples=["/etc/kdht/secret"],
        ),
    ] = None
    secret: Annotated[
        Annotated[str, Meta(min_length=MIN_SECRET)] | None,
        Meta(
            description="The secret itself, in place of a file: for trying things out.",
            examples=["not-a-secret-any-more"],
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.secret is None):
            raise ValueError("expected either `file` or `secret`")


class AccessKeySection(KeySection, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The secret that tokens are made and checked with, the same on all nodes; another one than the cluster's.
    Tokens of both are accepted, so that it can be changed while traffic flows."""

    file: Annotated[
        AbsolutePath | None,
        Meta(
            description=f"The file with the secret, {MIN_SECRET} bytes or more, readable by the daemon only.",
            examples=["/etc/kdht/access-secret"],
        ),
    ] = None
