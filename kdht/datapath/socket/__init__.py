"""The plain UDP socket: it sends what the node itself says, and handles everything that the fast path passes up."""
