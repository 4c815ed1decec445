"""The Python client's driver: clients/README.md has its commands and replies."""

import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from kdht import Client
from kdht.client import _nodes, _options
from kdht.client._datagram import TRY_BITS
from kdht.errors import (
    BadArgument,
    BadToken,
    ConfigError,
    Conflict,
    RequestError,
    RequestTimeout,
    ValueTooLarge,
)

Fields = dict[str, str]


class Fixed(random.Random):
    """The first request's number is given, each further one's is one more; everything else that is drawn is 0."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self._number = number

    def getrandbits(self, bits: int) -> int:
        if bits != 64 - TRY_BITS:
            return 0
        self._number += 1
        return self._number - 1

    def random(self) -> float:
        return 0.0

    def randrange(self, *_: Any) -> int:
        return 0


class Driver:
    """One client at a time."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._patches = ExitStack()
        self._clock_us = 0
        self._commands: dict[str, Callable[[Fields], str]] = {
            "open": self.open, "clock": self.clock, "put": self.put, "get": self.get, "delete": self.delete,
            "announce": self.announce, "withdraw": self.withdraw, "members": self.members, "cookie": self.cookie,
            "close": self.close,
        }  # fmt: skip

    def obey(self, line: str) -> str:
        """The reply to a command."""
        word, *parts = line.split()
        fields = dict(part.split("=", 1) for part in parts)
        command = self._commands.get(word)
        if command is None:
            return "error ARGUMENT"
        try:
            return command(fields)
        except Conflict as conflict:
            return f"error CONFLICT version={conflict.version}"
        except ValueTooLarge:
            return "error TOO_LARGE"
        except RequestTimeout:
            return "error TIMEOUT"
        except RequestError as error:
            return f"error {error.status or 'ANSWER'}"
        except (BadArgument, BadToken, ConfigError, ValueError):
            return "error ARGUMENT"

    @property
    def client(self) -> Client:
        if self._client is None:
            raise BadArgument("open a client first")
        return self._client

    def open(self, fields: Fields) -> str:
        self.close(fields)
        if "clock_us" in fields:
            self._clock_us = int(fields["clock_us"])
            self._patch(_options.sockets, "unix_us", lambda: self._clock_us)
        if "number" in fields:
            number = int(fields["number"])
            self._patch(_options.random, "SystemRandom", lambda: Fixed(number))
        # This client measures round trips; here it waits at least so long.
        for name in ("START_LATE", "START_RTO", "MIN_LATE", "MIN_RTO") if "retry_ms" in fields else ():
            self._patch(_nodes, name, int(fields["retry_ms"]) / 1000)
        self._client = Client(
            fields["nodes"].split(","),
            timeout=int(fields.get("timeout_ms", 5000)) / 1000,
            attempts=int(fields.get("attempts", 16)),
            learn=False,
            token=fields.get("token", ""),
            scope=bytes.fromhex(fields["scope"]).decode() if "scope" in fields else None,
        )
        return "ok"

    def close(self, _: Fields) -> str:
        if self._client is not None:
            self._client.close()
        self._client = None
        self._patches.close()
        return "ok"

    def clock(self, fields: Fields) -> str:
        self._clock_us = int(fields["clock_us"])
        return "ok"

    def put(self, fields: Fields) -> str:
        condition = {"if_version": int(fields["if_version"])} if "if_version" in fields else {}
        ttl = int(fields["ttl"]) if "ttl" in fields else None
        return (
            f"ok version={self.client.put(_bytes(fields, 'key'), _bytes(fields, 'value'), ttl, **condition)}"
        )

    def get(self, fields: Fields) -> str:
        most = {"max_value": int(fields["max"])} if "max" in fields else {}
        record = self.client.get_record(_bytes(fields, "key"), quorum="quorum" in fields, **most)
        return f"ok version={record.version} ttl={record.ttl} value={bytes(record.value).hex()}"

    def delete(self, fields: Fields) -> str:
        condition = {"if_version": int(fields["if_version"])} if "if_version" in fields else {}
        return f"ok found={self.client.delete(_bytes(fields, 'key'), **condition):d}"

    def announce(self, fields: Fields) -> str:
        version = self.client.announce_once(
            _bytes(fields, "set"), _bytes(fields, "payload"), int(fields["ttl"]), member=_member(fields)
        )
        return f"ok version={version}"

    def withdraw(self, fields: Fields) -> str:
        ttl = {"ttl": int(fields["ttl"])} if "ttl" in fields else {}
        found = self.client.withdraw(
            _bytes(fields, "set"), _bytes(fields, "payload"), member=_member(fields), **ttl
        )
        return f"ok found={found:d}"

    def members(self, fields: Fields) -> str:
        found = self.client.members(_bytes(fields, "set"), quorum="quorum" in fields)
        return "ok members=" + ",".join(f"{each.id:016x}:{each.ttl}:{each.payload.hex()}" for each in found)

    def cookie(self, _: Fields) -> str:
        return f"ok cookie={self.client._session.state.cookie:016x}"

    def _patch(self, target: Any, name: str, to: Any) -> None:
        self._patches.enter_context(patch.object(target, name, to))


def _bytes(fields: Fields, name: str) -> bytes:
    return bytes.fromhex(fields[name])


def _member(fields: Fields) -> bytes | None:
    return _bytes(fields, "member") if "member" in fields else None


if __name__ == "__main__":
    driver = Driver()
    for line in sys.stdin:
        print(driver.obey(line), flush=True)
