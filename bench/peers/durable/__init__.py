"""kdht beside stores that keep what they confirm: etcd, PostgreSQL and Redis, all Debian's, three nodes each.

    python -m bench.peers durable      # PUTs, and reads of a majority
    python -m bench.peers sets         # announcements, reads of a set, deaths

Everywhere a confirmed write is synced on two disks of three, and all nodes share this machine's disk. `etcd`, `postgres`, `redis` and
`own` start clusters on loopback, in a temporary directory; `grpc` makes etcd's requests; `writes` and `sets` measure. The loads are
C programs: bench/c/udp_ask.c, bench/c/tcp_ask.c, and PostgreSQL's pgbench. Processor time is that of the servers alone.
"""
