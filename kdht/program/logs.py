"""Structured logs on standard error: key=value text, or one JSON object a line.

All of kdht uses the standard logging module. `extra={"name": value}` adds a field after the
message.
"""

import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec

from kdht.program.log_writer import LogWriter

log = logging.getLogger(__name__)

_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of every line, then the record's own."""
    # In UTC, because lines of hosts in several time zones are compared.
    moment = datetime.fromtimestamp(record.created, UTC)
    fields: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    fields |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
    if record.exc_info:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value ...`, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "logger"))
        rest = "".join(f" {name}={_quoted(value)}" for name, value in fields.items() if name != "message")
        return f"{head}: {_one_line(fields['message'])}{rest}"


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(_fields(record), enc_hook=str).decode()


def _one_line(text: str) -> str:
    # A peer's bytes may be in it. They must neither forge a line nor reach a terminal as commands.
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    # JSON's quoting, which every reader of logs knows.
    return text if plain else msgspec.json.encode(text).decode()


FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def configure(level: str, form: str, fd: int) -> LogWriter:
    """Send the `kdht` loggers' lines of `level` and above to the descriptor `fd`, in format `form`.

    What Python itself would print there goes the same way, because a print may wait for a reader.
    """
    handler = LogWriter(fd)
    handler.setFormatter(FORMATTERS[form]())
    for name in ("kdht", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.captureWarnings(True)
    threading.excepthook = _tell_of_thread
    sys.unraisablehook = _tell_of_unraisable
    set_level(level)
    return handler


def _tell_of_thread(died: threading.ExceptHookArgs) -> None:
    name = died.thread.name if died.thread else "?"
    log.error("a thread died", extra={"of": name}, exc_info=died.exc_value)


def _tell_of_unraisable(found: Any) -> None:
    log.error("an error was ignored", extra={"of": repr(found.object)}, exc_info=found.exc_value)


def set_level(level: str) -> None:
    logging.getLogger("kdht").setLevel(level.upper())
