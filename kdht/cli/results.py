"""What kdhtctl's commands found or did, as plain data: printed as JSON, or drawn by `kdht.cli.draw`.

What a daemon answers is in `kdht.program.answers`.
"""

import msgspec


class Stored(msgspec.Struct):
    """`put`."""

    key: str
    bytes: int
    ttl: int
    """Seconds, 0: no end."""
    version: int


class Signed(Stored):
    """`put --sign`."""

    public_key: str
    seq: int


class Fetched(msgspec.Struct):
    """`get --json`."""

    key: str
    value: str | None
    """None: the value is no text."""
    base64: str
    bytes: int
    ttl: int
    version: int


class Deleted(msgspec.Struct):
    """`delete`."""

    key: str


class Problem(msgspec.Struct):
    """What would keep the daemon from working, and the code that it would exit with."""

    error: str
    exit_code: int


class ConfigChecked(msgspec.Struct):
    """`config check`."""

    config: str
    findings: list[str]
    problems: list[Problem]
    warnings: list[str]


class ExampleConfig(msgspec.Struct):
    """`config example`."""

    toml: str


class SecretMade(msgspec.Struct):
    """`key new`: the file of a cluster or access secret."""

    file: str


class ClientKey(msgspec.Struct):
    """`key show`, and `key new` for a client: what may be told of its key."""

    file: str
    use: str = msgspec.field(name="for")
    public_key: str
    """Hex digits. Empty: not a key for signing."""
    id: str
    """The same of a key for sealing."""


class Rotated(msgspec.Struct):
    """`key rotate`: one stage on one node."""

    config: str
    stage: str
    changed: bool
    epochs: list[int]
    """The first signs."""
    reloaded: bool
    waiting: list[str]
    """Changed fields that wait for a restart."""
    next: str


class RulesetText(msgspec.Struct):
    """`nft show`."""

    table: str
    way: str
    text: str


class TableLoaded(msgspec.Struct):
    """`nft apply`."""

    table: str
    way: str


class TableRemoved(msgspec.Struct):
    """`nft remove`; `removed`: it was there."""

    table: str
    removed: bool


class TableDiff(msgspec.Struct):
    """`nft diff`."""

    table: str
    loaded: bool
    diff: list[str]


class StorageChecked(msgspec.Struct):
    """`storage check`, as `kdht.storage.audit.Audit`."""

    records: int
    tombstones: int
    value_bytes: int
    with_expiry: int
    set_aside: int
    problems: list[str]


class Exported(msgspec.Struct):
    """`storage export`."""

    file: str
    records: int


class Imported(msgspec.Struct):
    """`storage import`; `newest`: records that the database took."""

    file: str
    records: int
    newest: int


class TokenGrant(msgspec.Struct, kw_only=True):
    """`token show`: what a token is good for."""

    rights: str
    """A letter for each."""
    scope: str
    holder: str
    epoch: int
    expiry: int
    """Unix seconds, 0: none."""
    expired: bool


class TokenMade(TokenGrant, kw_only=True):
    """`token new`: the token, or the file that it is in."""

    token: str | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET


class TokenChecked(TokenGrant, kw_only=True):
    """`token check`; `may`: by operation why a node refuses it, empty where it does not."""

    key: str
    hashed: str
    writes: str
    reads: str
    may: dict[str, str]


class Revoked(msgspec.Struct):
    """`token revoke`: a holder on one node."""

    config: str
    holder: str
    number: str
    changed: bool
    reloaded: bool


class Announced(msgspec.Struct):
    """`announce`: a new membership."""

    name: str
    ttl: int
    version: int


class Withdrawn(msgspec.Struct):
    """`withdraw`, and the end of `announce`."""

    name: str


class MemberShown(msgspec.Struct):
    """One of `members`."""

    id: str
    payload: str | None
    """None: it is no text."""
    base64: str
    ttl: int


class MemberChange(msgspec.Struct):
    """`watch --set`: one line."""

    name: str
    change: str
    """joined, changed or left."""
    member: MemberShown
    at: float
    """Unix seconds."""


class Members(msgspec.Struct):
    """`members`."""

    name: str
    members: list[MemberShown]


class Loaded(msgspec.Struct):
    """`load`; `before`: values that an earlier run stored."""

    stored: int
    before: int
    bytes: int
    seconds: float
    per_second: float


class Dumped(msgspec.Struct):
    """`dump`; `missing`: keys without a value."""

    fetched: int
    before: int
    missing: int
    bytes: int
    seconds: float
    per_second: float
