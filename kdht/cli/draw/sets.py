"""Draws the results of the set commands."""

import base64

from rich.markup import escape
from rich.table import Table

from kdht.cli.report import duration, terminal, uncut
from kdht.cli.results import Announced, Members, MemberShown, Withdrawn


def announced(data: Announced) -> None:
    """A new membership."""
    terminal().print(f"announced in {escape(data.name)}, for {duration(data.ttl)}, version {data.version}")


def withdrawn(data: Withdrawn) -> None:
    """An ended membership."""
    terminal().print(f"withdrawn from {escape(data.name)}")


def members(data: Members) -> None:
    """The members of a set."""
    table = Table("member", "payload", "ends in", box=None)
    for member in data.members:
        table.add_row(member.id, escape(_payload(member)), duration(member.ttl))
    console = terminal()
    console.print(uncut(table, "member", "payload", "ends in"))
    count = len(data.members)
    console.print(f"{count:,} member{'' if count == 1 else 's'} of {escape(data.name)}")


def _payload(member: MemberShown) -> str:
    """With nothing in it that a terminal would obey."""
    text = member.payload
    if text is None:
        return base64.b64decode(member.base64).hex()
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
