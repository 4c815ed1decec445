"""A node of libtorrent's DHT. Values are immutable items (BEP 44), found by the hash of themselves."""

import time
from collections.abc import Iterator
from hashlib import sha1
from typing import Any

import libtorrent

from bench.peers.nodes.lines import Arguments, arguments, serve

SETTINGS: dict[str, Any] = {
    "alert_mask": libtorrent.alert.category_t.dht_notification,
    "enable_dht": True,
    "enable_lsd": False,
    "enable_natpmp": False,
    "enable_upnp": False,
    # Many nodes have one address here, and none is to be held back.
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_ignore_dark_internet": False,
    "dht_prefer_verified_node_ids": False,
    "dht_block_ratelimit": 1_000_000,
    "dht_upload_rate_limit": 1 << 30,
    "dht_max_dht_items": 1_000_000,
}
JOINED = 20.0
"""Seconds to wait for the bootstrap's end, at most."""


class LibtorrentNode:
    """A lines.Node."""

    def __init__(self, given: Arguments) -> None:
        self._values = given.values
        self._targets = [sha1(b"%d:%s" % (len(value), value)).digest() for value in given.values]
        self._numbers = {target: number for number, target in enumerate(self._targets)}
        own = {"listen_interfaces": str(given.own), "dht_bootstrap_nodes": str(given.bootstrap or "")}
        make_session: Any = libtorrent.session  # its stubs do not know that a dict will do
        self._session = make_session({**SETTINGS, **own})
        if given.bootstrap:
            self._join()

    def _join(self) -> None:
        end = time.monotonic() + JOINED
        while time.monotonic() < end:
            self._session.wait_for_alert(200)
            if any(isinstance(a, libtorrent.dht_bootstrap_alert) for a in self._session.pop_alerts()):
                return

    def begin(self, do: str, number: int) -> None:
        if do == "put":
            self._session.dht_put_immutable_item(self._values[number])
        else:
            self._session.dht_get_immutable_item(libtorrent.sha1_hash(self._targets[number]))

    def finished(self, seconds: float) -> Iterator[tuple[int, bool]]:
        self._session.wait_for_alert(int(1e3 * seconds))
        for alert in self._session.pop_alerts():
            if isinstance(alert, libtorrent.dht_put_alert):
                yield self._numbers[alert.target.to_bytes()], alert.num_success > 0
            elif isinstance(alert, libtorrent.dht_immutable_item_alert):
                number = self._numbers[alert.target.to_bytes()]
                yield number, alert.item == self._values[number]


if __name__ == "__main__":
    serve(LibtorrentNode(arguments()))
