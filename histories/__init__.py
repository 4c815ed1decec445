"""Histories of real clusters under faults, checked against the promises of docs/guarantees.md.

    python -m histories --seed 7 --operations 20000 --datapath nfqueue

Clients in processes of their own write down every operation with the times of its call and its return
(`record`, `worker`, `workloads`). Meanwhile faults come by a plan that one seed gives (`plan`, `faults`,
`network`, `clock`). When all is healed, every key is read through every node, the nodes' disks are read,
and the checkers (`linear`, `registers`, `sessions`, `counters`, `final`) look at all of it.
"""
