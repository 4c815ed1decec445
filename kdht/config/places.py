"""Where daemon and kdhtctl find each other without being told."""

import os
from pathlib import Path

from kdht.wire import Address
from kdht.wire._shared import PORT

CONFIG = Path("/etc/kdht/kdhtd.toml")
FACES_CONFIG = Path("/etc/kdht/faces.toml")
"""Of kdht-faces, where it is not kdhtd's child."""
DATA_DIR = Path("/var/lib/kdht")
SOCKET = Path("/run/kdht/kdhtd.sock")

DEV_ADDRESS = Address.of("127.0.0.1", PORT)
"""Of a --dev node that is not told another."""


def dev_dir(address: Address) -> Path:
    """Where the --dev node at `address` keeps its data unless told otherwise."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home, "kdht", f"dev-{address.host}-{address.port}".replace(":", "-")).absolute()


def control_socket(data_dir: Path) -> Path:
    """A --dev node's socket."""
    return data_dir / "control.sock"
