"""Layer 4: the Kademlia state machine and the answers to requests. No I/O, no clock."""
