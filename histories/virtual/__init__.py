"""Histories in virtual time: thousands of short schedules of a small cluster, whose nodes and clients are the real ones.

    python -m histories.virtual --schedules 1000 --seed 1

No process, no socket and no clock: the coordinator, repair, the client's sessions and all between them run on a network
in memory (`kdht.lab.virtual`). A seed gives a schedule (`schedule`), which a `world` runs to a history; `play` holds
that against the promises of docs/guarantees.md. A schedule that breaks one is made smaller (`shrink`) and printed.
"""
