"""One node of a peer as a program: `python -m bench.peers.nodes.NAME PORT BOOTSTRAP_PORT COUNT SIZE`.

It binds 127.0.0.1:PORT, joins by BOOTSTRAP_PORT (0: it is the first), says "ready" and then
answers lines: `{"do": "put" or "get", "numbers": [...], "outstanding": n}`, each with
`{"latencies": [seconds...], "failed": n, "seconds": s}`. It ends with its input. It runs under any
Python that has the peer's binding, and needs nothing else.
"""
