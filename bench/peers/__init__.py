"""kdht beside its peers: the same values, the same counts, one run, on this machine.

`base` has the one interface: a cluster that puts and gets, at a site, loopback or hosts of their own (`sites`). `kdht_cluster` and
`overlay` (OpenDHT, libtorrent, kademlia, each as a program in `nodes/`) are its implementations; `single` has what
has one node only: memcached, Redis, a bare echo. `install` gets the peers, `measure` asks them,
`table` draws. A peer that cannot be installed is named, and the rest runs.
"""
