"""Feature flags: one record for each application, changed by compare-and-set, and followed by a watch.

    flags.py --node 10.0.0.1 shop set new-checkout 25      # for 25 % of the users
    flags.py --node 10.0.0.1 shop follow --user alice      # prints each change

In a program:

    flags = Flags(["10.0.0.1", "10.0.0.2"], "shop")
    if flags.is_on("new-checkout", user="alice"): ...

A program asks its own memory, never the network. Without the cluster it keeps the last flags.
"""

import argparse
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing

from kdht import Client
from kdht.errors import ConfigError, Conflict, NotFound, RequestError

PAUSE = 1.0
"""Seconds until the cluster is asked again after it did not answer."""
ALL = 100

Shares = dict[str, int]
"""Of each flag: for how many percent of the users it is on."""


def parse(value: bytes) -> Shares:
    """The flags in a record. Raises ValueError for anything else."""
    found = json.loads(value)
    if not isinstance(found, dict) or not all(type(share) is int for share in found.values()):
        raise ValueError("this record holds no flags")
    return found


def has(shares: Shares, flag: str, user: str = "") -> bool:
    """Whether the flag is on for this user: always the same users, and others for each flag."""
    share = shares.get(flag, 0)
    place = int.from_bytes(hashlib.sha256(f"{flag}/{user}".encode()).digest()[:4], "big") % ALL
    return place < share


def key_of(application: str) -> str:
    return f"flags/{application}"


class Flags:
    """The flags of one application. A thread follows them for as long as the program runs.

    `on_change` is called in that thread with the flags, now and after every change.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        application: str,
        on_change: Callable[[Shares], None] = lambda shares: None,
    ) -> None:
        self._nodes = list(nodes)
        self._key = key_of(application)
        self._on_change = on_change
        self._shares: Shares = {}
        self.known = threading.Event()
        """Set once the flags were read."""
        threading.Thread(target=self._run, daemon=True).start()

    def is_on(self, flag: str, user: str = "") -> bool:
        return has(self._shares, flag, user)

    def _run(self) -> None:
        while True:
            try:
                with Client(self._nodes) as client, closing(client.watch(self._key, lease=6)) as changes:
                    for record in changes:
                        self._take(record.value if record else b"{}")
            except (RequestError, ConfigError) as error:
                print(f"{error}; the flags stay as they are", file=sys.stderr, flush=True)
            time.sleep(PAUSE)

    def _take(self, value: bytes) -> None:
        try:
            self._shares = parse(value)
        except ValueError as error:
            print(f"{error}; the flags stay as they are", file=sys.stderr, flush=True)
            return
        self.known.set()
        self._on_change(self._shares)


def change(client: Client, application: str, edit: Callable[[Shares], object]) -> Shares:
    """Edit the flags, whoever else does so at the same time. Raises RequestError, and ValueError for a foreign record."""
    key = key_of(application)
    while True:
        try:
            record = client.get_record(key, quorum=True)
            shares, version = parse(record.value), record.version
        except NotFound:
            shares, version = {}, 0
        edit(shares)
        try:
            client.put(key, json.dumps(shares, sort_keys=True).encode(), if_version=version)
        except Conflict:
            continue
        return shares


def percent(text: str) -> int:
    """`on`, `off`, or a number from 0 to 100."""
    number = {"on": ALL, "off": 0}.get(text)
    number = int(text) if number is None else number
    if not 0 <= number <= ALL:
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> None:
    application = arguments.application
    if arguments.command == "follow":

        def show(shares: Shares) -> None:
            on = sorted(flag for flag in shares if has(shares, flag, arguments.user))
            print("on:", *on, flush=True)

        Flags(arguments.node, application, show)
        threading.Event().wait()
        return
    with Client(arguments.node) as client:
        if arguments.command == "set":
            shares = change(
                client, application, lambda flags: flags.update({arguments.flag: arguments.share})
            )
        else:
            shares = change(client, application, lambda flags: flags.pop(arguments.flag, None))
    print(json.dumps(shares, sort_keys=True))


def main() -> int:
    parser = argparse.ArgumentParser(description="Feature flags in kdht.")
    parser.add_argument("--node", action="append", required=True, help="HOST[:PORT]; may be repeated")
    parser.add_argument("application")
    commands = parser.add_subparsers(dest="command", required=True)
    setting = commands.add_parser("set", help="turn a flag on, off, or on for a part of the users")
    setting.add_argument("flag")
    setting.add_argument("share", type=percent, help="on, off, or a number of percent")
    commands.add_parser("remove", help="forget a flag").add_argument("flag")
    commands.add_parser("follow", help="print each change").add_argument("--user", default="")
    try:
        run(parser.parse_args())
    except (RequestError, ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
