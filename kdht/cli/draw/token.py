"""Draws the results of the token commands."""

import time

from kdht.cli.report import grid, terminal
from kdht.cli.results import Revoked, TokenChecked, TokenGrant, TokenMade
from kdht.program.drawing import styled

WORDS = {"r": "read", "w": "write", "d": "delete", "a": "announce", "n": "watch"}


def made(data: TokenMade) -> None:
    """A new token in a file."""
    terminal().print(f"made {data.file!s}: give it to the client, as KDHT_TOKEN=@FILE or --token @FILE")


def shown(data: TokenGrant) -> None:
    """What a token is good for."""
    console = terminal()
    console.print(grid(_rows(data)))


def checked(data: TokenChecked) -> None:
    """What a token may do with a key."""
    may = [
        (word, styled(f"no: {why}", "red") if why else styled("yes", "green"))
        for word, why in data.may.items()
    ]
    console = terminal()
    console.print(grid([*_rows(data), ("key", data.hashed), ("the node asks", _asked(data)), *may]))


def revoked(data: Revoked) -> None:
    """A holder on one node."""
    console = terminal()
    done = "revoked" if data.changed else "was revoked before"
    console.print(f"{data.config}: holder {data.holder} ({data.number}) {done}")
    console.print({True: "the daemon has it", False: "takes effect when the daemon starts"}[data.reloaded])
    console.print("next: the same on every other node")


def _rows(data: TokenGrant) -> list[tuple[str, object]]:
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(data.expiry)) if data.expiry else "never"
    return [
        ("rights", ", ".join(WORDS[letter] for letter in data.rights)),
        ("scope", data.scope),
        ("holder", data.holder),
        ("secret's epoch", data.epoch),
        ("expires", f"{when}{' (it has expired)' if data.expired else ''}"),
    ]


def _asked(data: TokenChecked) -> str:
    return f"writes {data.writes}, reads {data.reads}"
