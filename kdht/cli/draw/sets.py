"""Draws the results of the set commands."""

import base64

from kdht.cli.report import duration, terminal
from kdht.cli.results import Announced, Members, MemberShown, Withdrawn
from kdht.program.drawing import Column, Listing, counted, quoted


def announced(data: Announced) -> None:
    """A new membership."""
    terminal().print(f"announced in {quoted(data.name)}, for {duration(data.ttl)}, version {data.version}")


def withdrawn(data: Withdrawn) -> None:
    """An ended membership."""
    terminal().print(f"withdrawn from {quoted(data.name)}")


def members(data: Members, *, wide: bool = False) -> None:
    """The members of a set."""
    drawn = Listing(Column("member", is_id=True), "payload", Column("ends in", right=True))
    for member in data.members:
        drawn.add(member.id, _payload(member), duration(member.ttl))
    console = terminal()
    drawn.print(console, wide=wide)
    console.print(f"{counted(len(data.members), 'member')} of {quoted(data.name)}")


def _payload(member: MemberShown) -> str:
    """On one line."""
    if member.payload is None:
        return base64.b64decode(member.base64).hex()
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in member.payload)
