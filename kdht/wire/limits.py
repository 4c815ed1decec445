"""The greatest values of some fields.

MAX_VERSION and MAX_TTL are the greatest that fit. MAX_LEASE is a rule: after it a node forgets a client that died.
"""

MAX_VERSION = 2**64 - 1
MAX_TTL = 2**32 - 1
"""Seconds."""
MAX_LEASE = 60
"""Seconds that one WATCH lasts at most."""
