"""completion: what a shell needs to complete kdhtctl's commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = {
    "bash": "kdhtctl completion bash > /etc/bash_completion.d/kdhtctl",
    "zsh": "kdhtctl completion zsh > /usr/local/share/zsh/site-functions/_kdhtctl",
    "fish": "kdhtctl completion fish > ~/.config/fish/completions/kdhtctl.fish",
}
HELP = "Write a shell's completion script to standard output.\n\n\b\n" + "\n".join(SHELLS.values())


@click.command(help=HELP)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """See HELP."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "kdhtctl", "_KDHTCTL_COMPLETE").source())
