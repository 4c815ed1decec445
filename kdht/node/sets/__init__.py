"""Sets: their members in memory, and the answers to ANNOUNCE, WITHDRAW, MEMBERS and LIST."""
