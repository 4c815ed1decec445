"""A group of commands that imports a command only when it is called, so that scripts do not wait for the others."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """Where a command is, and the line about it in the help."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group of LazyCommands.

    `commands_by_name` is in the order of the help. `sections` gives the title of a section by the command that it
    begins with.
    """

    def __init__(
        self,
        *args: Any,
        commands_by_name: Mapping[str, LazyCommand],
        sections: Mapping[str, str],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._by_name = commands_by_name
        self._sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._by_name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self._by_name.get(cmd_name)
        if found is None:
            return None
        command: click.Command = getattr(import_module(found.module), found.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone: click's own would import every command."""
        sections: list[tuple[str, list[tuple[str, str]]]] = []
        width = max(map(len, self._by_name))
        for name, command in self._by_name.items():
            if name in self._sections:
                sections.append((self._sections[name], []))
            sections[-1][1].append((name.ljust(width), command.help))
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table alone, too."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=command.help)
            for name, command in self._by_name.items()
            if name.startswith(incomplete)
        ]
