"""The UDP tracker (BEP 15): BitTorrent clients announce themselves to sets, and read them."""

from kdht.faces.tracker.face import make

__all__ = ["make"]
