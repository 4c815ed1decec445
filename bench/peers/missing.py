"""What a peer that cannot be measured raises."""


class PeerMissing(Exception):
    """A peer is not here; says why, in one line."""
