"""The one place where errors become exit codes: all programs' `main` end here.

What a user can cause is one line on standard error and never a traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from kdht.errors import ConfigError, KdhtError
from kdht.program import streams

INTERRUPTED = 128 + 2  # what a shell reports for SIGINT


def run(
    command: click.Command,
    name: str,
    arguments: Sequence[str] | None = None,
    *,
    patience_s: float | None = None,
) -> NoReturn:
    """Run a program and exit: 0, or the error's code after one line on standard error.

    `patience_s`: how long that line waits for a reader of standard error who stalls. None: as long as it takes.
    """
    streams.prepare()
    code, complaint = _outcome(command, name, arguments)
    if complaint:
        streams.complain(complaint, patience_s)
    sys.exit(code)


def _outcome(command: click.Command, name: str, arguments: Sequence[str] | None) -> tuple[int, str]:
    """The exit code and the line for standard error."""
    try:
        result = command.main(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return (result if isinstance(result, int) else 0), ""
    except click.exceptions.NoArgsIsHelpError as error:
        return ConfigError.exit_code, error.format_message()
    except click.UsageError as error:
        how = f" ({error.ctx.command_path} --help shows how)" if error.ctx else ""
        return _complain(name, error.format_message() + how, ConfigError.exit_code)
    except click.ClickException as error:
        return _complain(name, error.format_message(), ConfigError.exit_code)
    except KdhtError as error:
        return _complain(name, str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        # Who pressed Ctrl-C knows why it ended.
        return INTERRUPTED, ""
    except BrokenPipeError:
        _give_up_output()
        # The reader, such as `head`, has gone on purpose.
        return KdhtError.exit_code, ""
    except OSError as error:
        _give_up_output()
        return _complain(
            name, f"{error.filename or 'input or output'}: {error.strerror or error}", KdhtError.exit_code
        )


def _give_up_output() -> None:
    """If standard output takes no more, lose what it holds: the interpreter's own try would change our code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(name: str, message: str, code: int) -> tuple[int, str]:
    return code, f"{name}: {' '.join(message.split())}"
