"""The one place where errors become exit codes: all programs' `main` end here.

What a user can cause is one line on standard error and never a traceback. With --json this line is an object: `error`,
the `exit_code`, the `status` that the cluster answered with (null without one), and of a conflict the `version` that
stands.
"""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import click
import msgspec

from kdht.errors import ConfigError, Conflict, KdhtError, RequestError
from kdht.program import streams
from kdht.remedies import about_file

INTERRUPTED = 128 + 2  # what a shell reports for SIGINT


class End(NamedTuple):
    """How a program ends: its exit code, what it has to complain of, and the error with the details."""

    code: int
    complaint: str = ""
    error: KdhtError | None = None
    is_help: bool = False
    """The complaint is a whole page, and not a line."""


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
    end = _outcome(command, name, arguments)
    if end.complaint:
        given = sys.argv[1:] if arguments is None else arguments
        streams.complain(_line(end, name, as_json=wants_json(given)), patience_s)
    sys.exit(end.code)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether --json is among them. Looked for in the text, because what cannot be parsed is to be told in JSON, too."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _line(end: End, name: str, *, as_json: bool) -> str:
    if end.is_help:
        return end.complaint
    message = " ".join(end.complaint.split())
    if not as_json:
        return f"{name}: {message}"
    told: dict[str, object] = {"error": message, "exit_code": end.code, "status": None}
    if isinstance(end.error, RequestError):
        told["status"] = end.error.status
    if isinstance(end.error, Conflict):
        told["version"] = end.error.version
    return msgspec.json.encode(told).decode()


def _outcome(command: click.Command, name: str, arguments: Sequence[str] | None) -> End:
    """How it ends."""
    try:
        result = command.main(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return End(result if isinstance(result, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        return End(ConfigError.exit_code, error.format_message(), is_help=True)
    except click.UsageError as error:
        how = f" ({error.ctx.command_path} --help shows how)" if error.ctx else ""
        return End(ConfigError.exit_code, error.format_message() + how)
    except click.ClickException as error:
        return End(ConfigError.exit_code, error.format_message())
    except KdhtError as error:
        return End(error.exit_code, str(error), error)
    except (click.Abort, KeyboardInterrupt):
        # Who pressed Ctrl-C knows why it ended.
        return End(INTERRUPTED)
    except BrokenPipeError:
        _give_up_output()
        # The reader, such as `head`, has gone on purpose.
        return End(KdhtError.exit_code)
    except OSError as error:
        _give_up_output()
        return End(KdhtError.exit_code, _about(error))


def _about(error: OSError) -> str:
    if isinstance(error.filename, str | bytes):
        return about_file(os.fsdecode(error.filename), error)
    return f"input or output: {error.strerror or error}"


def _give_up_output() -> None:
    """If standard output takes no more, lose what it holds: the interpreter's own try would change our code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
