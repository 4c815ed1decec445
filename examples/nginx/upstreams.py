"""Keeps an nginx upstream equal to the members of a set, and has nginx reload.

    upstreams.py --node 10.0.0.1 --set web --file upstreams/web.conf --reload "nginx -s reload"

While no node of kdht answers, the file stays as it is. Ends with status 2 for a wrong argument.
"""

import argparse
import ipaddress
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from kdht import Client
from kdht.errors import ConfigError, RequestError

PAUSE = 1.0
"""Seconds until the cluster is asked again after it did not answer."""
NOBODY = "    server 127.0.0.1:1 down;\n"
"""nginx wants at least one server; it answers 502 for this one."""
NAME = re.compile(r"[A-Za-z0-9_-]+")


def endpoint(payload: bytes) -> str | None:
    """HOST:PORT for nginx, or None: whoever may announce could otherwise write any text into nginx's configuration."""
    try:
        host, port = payload.decode("ascii").rsplit(":", 1)
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if not re.fullmatch(r"[1-9]\d{0,4}", port) or int(port) > 65535 or getattr(address, "scope_id", None):
        return None
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def upstream(name: str, payloads: Iterable[bytes]) -> str:
    """The text of the file."""
    servers = sorted({found for payload in payloads if (found := endpoint(payload))})
    lines = "".join(f"    server {server} max_fails=1 fail_timeout=2s;\n" for server in servers)
    return f"upstream {name} {{\n{lines or NOBODY}}}\n"


def replace(path: Path, text: str) -> bool:
    """Whether the file changed. It is replaced as a whole: nginx may read it at any time."""
    if path.exists() and path.read_text() == text:
        return False
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.replace(new, path)
    return True


def follow(client: Client, arguments: argparse.Namespace) -> None:
    """Until no node answers any more."""
    for members in client.watch_members(arguments.set, lease=arguments.lease):
        if replace(arguments.file, upstream(arguments.set, (member.payload for member in members))):
            print(f"{len(members)} members in {arguments.file}", flush=True)
            # A failed reload leaves nginx with what it had, so the next change may still help.
            if arguments.reload and subprocess.run(shlex.split(arguments.reload)).returncode:
                print(f"failed: {arguments.reload}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep an nginx upstream equal to a set of kdht.")
    parser.add_argument("--node", action="append", required=True, help="HOST[:PORT]; may be repeated")
    parser.add_argument("--set", required=True, help="its name, and the upstream's")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--reload", default="", help="a command")
    parser.add_argument("--lease", type=int, default=10, help="seconds until a lost change is noticed")
    arguments = parser.parse_args()
    if not NAME.fullmatch(arguments.set):
        parser.error("--set: nginx wants letters, digits, - and _")
    try:
        while True:
            with Client(arguments.node) as client:
                try:
                    follow(client, arguments)
                except RequestError as error:
                    print(f"{error}; the servers stay as they are", file=sys.stderr, flush=True)
            time.sleep(PAUSE)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
