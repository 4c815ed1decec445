"""From a configuration to what the parts take: addresses as bytes, keys derived, files read.

`resolve` ends in Settings or in a ConfigError that names the field. What is odd but can
work becomes a warning.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from kdht.config.key_schema import KeySection
from kdht.config.reading import load
from kdht.config.schema import Config
from kdht.datapath.senders import Senders
from kdht.errors import ConfigError
from kdht.node.access import AccessPolicy
from kdht.remedies import about_file
from kdht.wire import Address
from kdht.wire._shared import MAX_OWN
from kdht.wire.keys import ClusterSecret, derive, derive_access
from kdht.wire.rights import holder_of, scope_of

# Many times a secret. A path that names a device or a log by mistake must not fill the memory.
MAX_SECRET_FILE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a daemon needs to know before it starts."""

    config: Config
    listen: tuple[Address, ...]
    """What the transport binds: the listening addresses, and anycast ones no wildcard covers."""
    own: tuple[Address, ...]
    """Every address that is this node, the one that others learn first, anycast last."""
    unicast: tuple[Address, ...]
    """The own addresses without the anycast ones."""
    keys: tuple[ClusterSecret, ...]
    """The first signs."""
    also: tuple[Address, ...] = ()
    """Other addresses of this host, where clients may ask a node with a wildcard (kdht/daemon/host_addresses.py)."""
    access: AccessPolicy
    senders: Senders
    """Whose requests this node takes."""
    write_cookie: bool
    """Who may read and write."""
    data_dir: Path
    control_socket: Path
    warnings: tuple[str, ...] = ()
    source: Path | None = None
    """The file that it is from."""

    @property
    def address(self) -> Address:
        """Where other nodes reach this one."""
        return self.own[0]

    @property
    def key_files(self) -> list[Path]:
        """The files that the keys come from, now and at SIGHUP."""
        return [key.file.path for key in (*self.config.key, *self.config.access.key) if key.file]

    def usual(self, ipv4: bool) -> Address | None:
        """The sender, in one family, of what this node forwards."""
        return next((each for each in self.unicast if each.is_ipv4 == ipv4), None)

    def core_fields(self, own: Sequence[Address]) -> dict[str, Any]:
        """What every core of this node is configured with, as `Core.configure` takes it; `own`: its addresses."""
        source4, source6 = self.usual(ipv4=True), self.usual(ipv4=False)
        return {
            "port": self.address.port,
            "own": [address.ip for address in own],
            "source4": source4.ip if source4 else None,
            "source6": source6.ip if source6 else None,
            "keys": [(key.epoch, key.tag) for key in self.keys],
            "cookie_key": self.keys[0].cookie,
            "cookies": self.config.node.cookies,
            "window": self.config.node.replay_window,
        }


def resolve(config: Config) -> Settings:
    """Read the key files and settle the addresses. Raises ConfigError."""
    listen, unicast, own = _addresses(config)
    _check_bootstrap(config, unicast)
    warnings: list[str] = []
    keys = []
    for at, key in enumerate(config.key):
        secret, warning = _secret(key, f"key[{at}]")
        keys.append(derive(key.epoch, secret))
        warnings += warning
    access, more = _access(config, own)
    senders = _senders(config)
    return Settings(
        config=config,
        listen=listen,
        own=own,
        unicast=unicast,
        keys=tuple(keys),
        access=access,
        senders=senders,
        write_cookie=config.access.write_cookie,
        data_dir=config.node.data_dir.path,
        control_socket=config.control.socket.path,
        warnings=(*warnings, *more, *_refused_at_home(config, senders, unicast)),
    )


def of_file(path: Path, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    """Read a configuration and all that it names. Raises ConfigError."""
    settings = replace(resolve(load(path, overrides)), source=path.absolute())
    if not _has_secret_inside(settings.config):
        return settings
    try:
        mode = path.stat().st_mode
    except OSError:
        return settings
    return warn(settings, *_warned(path, mode))


def _has_secret_inside(config: Config) -> bool:
    return any(key.secret is not None for key in (*config.key, *config.access.key))


def _warned(path: Path, mode: int) -> list[str]:
    """A warning, if every user can read or change the file of a secret."""
    readable = mode & (stat.S_IROTH | stat.S_IWOTH)
    return [f"{path}: every user can read this secret: chmod 600 {path}"] if readable else []


def warn(settings: Settings, *warnings: str) -> Settings:
    """The same settings with more warnings."""
    return replace(settings, warnings=(*settings.warnings, *warnings))


def _addresses(config: Config) -> tuple[tuple[Address, ...], ...]:
    """What is bound, what is ours alone, and all that is ours."""
    node = config.node
    ports = sorted({endpoint.address.port for endpoint in node.listen})
    if len(ports) > 1:
        raise ConfigError(f"node.listen has the ports {ports}: a node has one port on all its addresses")
    wildcards = [endpoint for endpoint in node.listen if endpoint.is_wildcard]
    plain = [endpoint.address for endpoint in node.listen if not endpoint.is_wildcard]
    if wildcards and not node.advertise:
        raise ConfigError(
            f"node.listen has the wildcard {wildcards[0]}: "
            "node.advertise must name the addresses that other nodes reach this one at"
        )
    if node.advertise and not wildcards:
        raise ConfigError(
            "node.advertise goes with a wildcard in node.listen: leave it out, or listen on 0.0.0.0 or ::"
        )
    # These first: what others learn of this node must reach it and no other.
    unicast = _unique([*plain, *(ip.at(ports[0]) for ip in node.advertise)])
    anycast = _unique(ip.at(ports[0]) for ip in node.anycast)
    if both := set(unicast) & set(anycast):
        raise ConfigError(f"node.anycast has {both.pop().host}, which is this node's own address too")
    own = (*unicast, *anycast)
    if len(own) > MAX_OWN:
        raise ConfigError(f"node.listen, advertise and anycast have {len(own)} addresses: at most {MAX_OWN}")
    covered = {endpoint.address.is_ipv4 for endpoint in wildcards}
    # A second socket on an address that a wildcard covers could not be bound.
    bound = _unique([*(e.address for e in node.listen), *(a for a in anycast if a.is_ipv4 not in covered)])
    return bound, unicast, own


def _check_bootstrap(config: Config, unicast: Sequence[Address]) -> None:
    """Refuse addresses that this node cannot ask: it would take itself for the first of its cluster.

    What names stand for is seen when they are looked up.
    """
    # Its own address in the list is fine: all nodes may have the same list.
    others = {name.address for name in config.node.bootstrap} - set(unicast)
    families = {address.is_ipv4 for address in unicast}
    if others and all(address and address.is_ipv4 not in families for address in others):
        raise ConfigError(
            f"node.bootstrap is {', '.join(config.node.bootstrap)}: {other_version(unicast[0])}"
        )


def other_version(own: Address) -> str:
    """Why addresses of the version that `own` is not cannot be reached from there, and what to do."""
    lacks = other_version_than(own)
    return (
        f"only {lacks} addresses, and this node has none: give it an {lacks} address in node.listen, or name other "
        "addresses of other nodes"
    )


def other_version_than(own: Address) -> str:
    return "IPv6" if own.is_ipv4 else "IPv4"


def _unique(addresses: Sequence[Address] | Iterator[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(addresses))


def _access(config: Config, own: Sequence[Address]) -> tuple[AccessPolicy, list[str]]:
    """Who may read and write, and what the operator should know of that."""
    access, keys = config.access, []
    warnings: list[str] = []
    for at, key in enumerate(access.key):
        secret, warning = _secret(key, f"access.key[{at}]")
        keys.append(derive_access(key.epoch, secret))
        warnings += warning
    is_private = all(address.is_loopback for address in own)
    # Closed unless somebody says otherwise. What ends on loopback alone is for trying things out.
    writes = access.writes or ("open" if is_private and not keys else "token")
    if not keys and (writes, access.reads) != ("open", "open"):
        raise ConfigError(_NO_ACCESS_KEY.format("reads" if writes == "open" else "writes"))
    if writes != "token" and not is_private:
        warnings.append(_ANYBODY_WRITES.format(writes))
    return AccessPolicy(
        writes=writes,
        reads=access.reads,
        keys=tuple(keys),
        open_scopes=frozenset(map(scope_of, access.open_scopes)),
        revoked=frozenset(map(holder_of, access.revoked)),
    ), warnings


def _senders(config: Config) -> Senders:
    access = config.access
    lists = (access.from_, access.not_from, access.write_from, access.write_not_from)
    return Senders(*(tuple(prefix.network for prefix in prefixes) for prefixes in lists))


def _refused_at_home(config: Config, senders: Senders, unicast: Sequence[Address]) -> Iterator[str]:
    """Warnings, if the lists refuse the node's own addresses: faces and kdhtctl on this host ask from there."""
    for address in unicast:
        host = ip_network(address.host)
        reads = senders.changes_to_admit(host, writes=False)
        writes = senders.changes_to_admit(host, writes=True)
        if reads or writes:
            whom = " and ".join([*_asking(config, only_writes=not reads), "kdhtctl on this host"])
            what = "writes of this node's own address" if not reads else "this node's own address"
            yield (
                f"[access] refuses {what} {address.host}, and so {whom}: {' and '.join([*reads, *writes])}"
            )


def _asking(config: Config, *, only_writes: bool) -> list[str]:
    """Tables of the faces that are switched on. The DNS face writes nothing."""
    listening = {
        "[dns]": config.dns.listen and not only_writes,
        "[http]": config.http.listen,
        "[tracker]": config.tracker.listen,
    }
    return [name for name, is_on in listening.items() if is_on]


_NO_ACCESS_KEY = (
    "access.{0} asks for tokens, and no [[access.key]] has the secret to check them with: make one with kdhtctl key new, the "
    'same on all nodes; or let everybody in with access.{0} = "open"'
)
_ANYBODY_WRITES = (
    'access.writes is "{}": everybody who can send a datagram here can write and delete: set it to "token", unless only '
    "friends can reach this port"
)


def _secret(key: KeySection, name: str) -> tuple[bytes, list[str]]:
    """The secret's bytes, and what is wrong with where they come from."""
    if key.secret is not None:
        return key.secret.encode(), []
    assert key.file is not None
    path = key.file.path
    try:
        with path.open("rb") as file:
            # Editors and `echo` end a file with a newline, which is no part of the secret.
            secret = file.read(MAX_SECRET_FILE + 1).strip()
            mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{name}.file is {about_file(path, error, 'put the secret there')}") from error
    if len(secret) > MAX_SECRET_FILE:
        raise ConfigError(
            f"{name}.file is {key.file}: larger than {MAX_SECRET_FILE} bytes: is this the secret's file?"
        )
    try:
        # For its checks alone, here, where the message can name the file.
        derive(key.epoch, secret)
    except ConfigError as error:
        raise ConfigError(f"{name}.file is {key.file}: {error}") from None
    return secret, _warned(path, mode)
