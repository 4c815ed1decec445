"""`kdhtd --dev`: a node without root and without a configuration, for trying things out.

It listens on loopback only, for its cluster secret is public. Every address has its own
data directory, so that several of them on one machine need nothing but --listen and
--bootstrap.
"""

from pathlib import Path
from typing import Any

from kdht.config.places import DEV_ADDRESS, control_socket, dev_dir
from kdht.config.reading import build
from kdht.config.schema import Config
from kdht.config.values import Endpoint
from kdht.errors import ConfigError

SECRET = "kdht --dev: everybody knows this secret"
WARNING = "development node: its cluster secret is public, so it listens on loopback only"


def config(overrides: dict[str, dict[str, Any]]) -> Config:
    """The configuration of a --dev node, with what the command line said laid over it.

    Raises ConfigError for what makes no sense in it.
    """
    listen = overrides.get("node", {}).get("listen") or [DEV_ADDRESS.host]
    try:
        addresses = [Endpoint(each).address for each in listen]
    except ValueError as error:
        raise ConfigError(f"--listen {' '.join(listen)}: {error}") from None
    for address in addresses:
        if not address.is_loopback:
            raise ConfigError(
                f"--dev listens on loopback only, not on {address.host}: write a configuration for that"
            )
    data_dir = overrides.get("node", {}).get("data_dir") or str(dev_dir(addresses[0]))
    defaults: dict[str, dict[str, Any]] = {
        "node": {"listen": listen, "data_dir": data_dir, "id": "random"},
        "datapath": {"kind": "socket"},
        # Its friends come and go, and what is tried out needs no second disk.
        "replication": {"write": "one"},
        "control": {"socket": str(control_socket(Path(data_dir)))},
    }
    merged = {
        table: {**defaults.get(table, {}), **overrides.get(table, {})} for table in defaults | overrides
    }
    if merged["datapath"]["kind"] != "socket":
        raise ConfigError("--dev has the socket datapath only: packets on loopback cannot be diverted")
    return build({**merged, "key": [{"secret": SECRET}]}, name="--dev")
