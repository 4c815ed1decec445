"""The greatest values of fields that the byte layout alone does not limit, and of those that it does.

MAX_VERSION and MAX_TTL are all that fits their fields. MAX_LEASE is a rule: a client that died is forgotten after it.
"""

MAX_VERSION = 2**64 - 1
MAX_TTL = 2**32 - 1
"""Seconds."""
MAX_LEASE = 60
"""Seconds that one WATCH lasts at most."""
