"""watch --set: who comes to a set, changes, and goes."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import click

from kdht.cli.keys import key_text
from kdht.cli.nodes import Target
from kdht.cli.options import emit_line
from kdht.cli.results import MemberChange
from kdht.cli.sets import described
from kdht.client import Member


class Change(NamedTuple):
    """What became of one member."""

    what: str
    """joined, changed or left."""
    member: Member


def watch_set(target: Target, name: str | bytes, count: int | None, lease: int, as_json: bool) -> None:
    """Print changes, `count` of them or without end; those who are members at first have joined."""
    told = 0
    with target.client() as client, closing(client.watch_members(name, lease=lease)) as states:
        known: dict[int, Member] = {}
        for members in states:
            for change in changes(known, members):
                _tell(name, change, as_json)
                told += 1
                if told == count:
                    return
            known = {member.id: member for member in members}


def changes(known: dict[int, Member], members: list[Member]) -> Iterator[Change]:
    """From one state to the next."""
    left = dict(known)
    for member in members:
        before = left.pop(member.id, None)
        if before is None:
            yield Change("joined", member)
        elif before.payload != member.payload:
            yield Change("changed", member)
    for member in left.values():
        yield Change("left", member)


def _tell(name: str | bytes, change: Change, as_json: bool) -> None:
    shown = described(change.member)
    if as_json:
        emit_line(MemberChange(key_text(name), change.what, shown, time.time()))
        return
    payload = change.member.payload.decode(errors="backslashreplace")
    text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in payload)
    click.echo(f"{time.strftime('%H:%M:%S')}  {change.what:7}  {shown.id}  {text}")
