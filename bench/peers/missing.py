"""Raised for a peer that cannot be measured."""


class PeerMissing(Exception):
    """A peer is not here; says why, in one line."""
