"""completion: what a shell needs to complete a program's commands and options."""

import click
from click.shell_completion import get_completion_class

PLACES = {
    "bash": "/etc/bash_completion.d/{name}",
    "zsh": "/usr/local/share/zsh/site-functions/_{name}",
    "fish": "~/.config/fish/completions/{name}.fish",
}
"""By shell, where its script goes."""


def completion_of(name: str) -> click.Command:
    """The command `completion` of the program with this name."""
    usual = [f"{name} completion {shell} > {place.format(name=name)}" for shell, place in PLACES.items()]

    @click.command(
        "completion",
        help="Write a shell's completion script to standard output.\n\n\b\n" + "\n".join(usual),
    )
    @click.argument("shell", type=click.Choice(list(PLACES)))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        kind = get_completion_class(shell)
        assert kind is not None
        # The variable by which click knows that it is to complete.
        variable = f"_{name.upper()}_COMPLETE".replace("-", "_")
        click.echo(kind(context.find_root().command, {}, name, variable).source())

    return completion
