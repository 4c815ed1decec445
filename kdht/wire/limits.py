"""The greatest values of some fields.

MAX_VERSION and MAX_TTL are the greatest that fit. The others are rules: after MAX_LEASE a node forgets a client that died.
"""

MAX_VERSION = 2**64 - 1
SEAL_OVERHEAD = 52
"""Bytes that a sealed value is longer than the value in it."""
MAX_TTL = 2**32 - 1
"""Seconds."""
MAX_WIRE_EXPIRY = 2**32 - 1
"""Unix seconds: the last expiry that nodes tell each other."""
# Renewed three times in that time, so a client that died gets at most a minute of notifications.
MAX_LEASE = 60
"""Seconds that one WATCH lasts at most."""
# A host without NTP drifts by seconds a week. A minute leaves room for that, and bounds how long a lie about
# the time can hold up a key.
MAX_CLOCK_ERROR = 60_000_000
"""Microseconds that a client's version, or the time in its proof, may be off its node's clock, and that a node's versions may
be ahead of it."""
