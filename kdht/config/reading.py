"""From a TOML file to a checked Config, or to one line that says what is wrong with it.

Contract: `load` ends in a whole Config or in a ConfigError whose one line names the field by its path, what was given
and what is allowed. Nothing is read but the file itself: secrets, addresses and names are resolved in settings.py.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from kdht.config.kinds import allowed, field_names, kind_at
from kdht.config.schema import Config
from kdht.config.values import TextKind
from kdht.errors import ConfigError
from kdht.remedies import about_file

# A configuration has some kilobytes. This keeps a wrong path from filling the memory.
MAX_FILE = 1 << 20


def load(path: Path, overrides: dict[str, dict[str, Any]] | None = None) -> Config:
    """The configuration in the TOML file at `path`, with `overrides` (table, field) laid over it.

    Raises ConfigError for a file that cannot be read, is no TOML or has a bad field.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise ConfigError(f"{path}: larger than {MAX_FILE} bytes: is this the configuration?")
        data = tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError(about_file(path, error, "give the file's name with --config")) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deep") from None
    except ValueError as error:  # a number of thousands of digits is one without being a TOMLDecodeError
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return build(data, overrides, name=str(path))


def build(data: dict[str, Any], overrides: dict[str, dict[str, Any]] | None = None, name: str = "") -> Config:
    """A checked Config from plain data; `name` stands before the message of a ConfigError."""
    merged = dict(data)
    for table, fields in (overrides or {}).items():
        under = merged.get(table, {})
        merged[table] = {**under, **fields} if isinstance(under, dict) else under
    try:
        return msgspec.convert(merged, Config, dec_hook=text_kind)
    except msgspec.ValidationError as error:
        line = _explain(str(error), merged)
        raise ConfigError(f"{name}: {line}" if name else line) from None


def text_kind(kind: type, value: object) -> object:
    """A text of the configuration as its kind, for msgspec. Raises ValueError, TypeError."""
    if issubclass(kind, TextKind):
        return kind(value)
    raise TypeError(f"no such kind: {kind}")


_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")


def _explain(message: str, data: dict[str, Any]) -> str:
    """msgspec's message as one line: the field's path, what was given, what is allowed."""
    place = _PLACE.match(message)
    what, path = (place["what"], place["path"] or "") if place else (message, "")
    steps = [int(s) if s.isdigit() else s for s in re.findall(r"[^.\[\]]+", path)]
    dotted = f"{path}." if path else ""
    if unknown := _UNKNOWN.match(what):
        return f"{dotted}{unknown['name']} is unknown; known here: {', '.join(field_names(Config, steps))}"
    if missing := _MISSING.match(what):
        wanted = allowed(kind_at(Config, [*steps, missing["name"]]))
        return f"{dotted}{missing['name']} is missing: expected {wanted}"
    if what.startswith(("Expected", "Invalid", "Object")):
        what = f"expected {allowed(kind_at(Config, steps))}"
    return f"{path} is {_shown(data, steps)}: {what}" if path else what


def _shown(data: Any, steps: list[str | int], limit: int = 60) -> str:
    for step in steps:
        data = data[step]
    if "secret" in steps:
        data = "(hidden)"
    elif isinstance(data, dict) and "secret" in data:
        data = {**data, "secret": "(hidden)"}
    text = msgspec.json.encode(data, enc_hook=str).decode()
    return text if len(text) <= limit else text[: limit - 3] + "..."
