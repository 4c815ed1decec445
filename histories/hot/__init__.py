"""Hot records of real daemons on ebpf, read beside conditional writes and faults: is a GET at the owner ever old?

    python -m histories.hot --reads 1000000

32 readers (`readers.c`) ask for few keys as fast as they can, so that the XDP program answers. 8 writers (`writers`) put
new values on the condition of the version that they know. Meanwhile nodes are killed, paused, drained and joined, and keys
go from owner to owner (`owners`). `check` searches an order of all writes and of all reads at a key's owner.

docs/guarantees.md promises nothing of GETs while a key's owner is gone, comes or goes. So reads of that key are left out
of the search for that time. Writes and quorum reads are not.
"""
