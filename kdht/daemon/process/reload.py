"""SIGHUP and the control method `reload`: they read the keys, who may read and write, the faces and the log level
again. The rest needs a restart.

So a cluster secret can be changed while traffic flows: first all nodes accept the new key as
their second, then it becomes the first and seals, then the old one is removed.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import msgspec

from kdht.config.schema import Config
from kdht.config.settings import Settings
from kdht.daemon.wiring import Parts, configure, set_access
from kdht.errors import ConfigError
from kdht.program import logs
from kdht.times import UnixTime

log = logging.getLogger(__name__)

FACES = ("dns", "http", "tracker")
APPLIED = {"key", "access", "log.level", *FACES}


class Reloaded(NamedTuple):
    """The new settings, and the changed fields that need a restart."""

    settings: Settings
    waiting: list[str]


def reload(load: Callable[[], Settings], current: Settings, parts: Parts) -> Reloaded:
    """Apply the changes that need no restart. Raises ConfigError, also logged; then nothing is changed."""
    try:
        new = load()
    except ConfigError as error:
        log.error("configuration not reloaded", extra={"error": error})
        raise
    faces = {name: getattr(new.config, name) for name in FACES}
    applied = replace(
        current,
        config=msgspec.structs.replace(current.config, **faces),
        keys=new.keys,
        access=new.access,
        senders=new.senders,
        write_cookie=new.write_cookie,
        warnings=new.warnings,
    )
    configure(parts.publisher, parts.contact.id, applied)
    parts.driver.set_keys(applied.keys)
    set_access(parts, applied.access, UnixTime(time.time()))
    logs.set_level(new.config.log.level)
    log.info(
        "configuration reloaded",
        extra={
            "key_epochs": [key.epoch for key in applied.keys],
            "access_epochs": [key.epoch for key in applied.access.keys],
            "writes": applied.access.writes,
            "reads": applied.access.reads,
        },
    )
    if waiting := list(_changed(current.config, new.config)):
        log.warning("changes that wait for a restart", extra={"fields": ", ".join(waiting)})
    return Reloaded(applied, waiting)


def _changed(old: Config, new: Config) -> Iterator[str]:
    """Fields that differ and are not applied while running."""
    for table in Config.__struct_fields__:
        before, after = getattr(old, table), getattr(new, table)
        # A whole table first: most are equal.
        if table in APPLIED or before == after:
            continue
        names = (
            f"{table}.{name}"
            for name in before.__struct_fields__
            if getattr(before, name) != getattr(after, name)
        )
        yield from (name for name in names if name not in APPLIED)
