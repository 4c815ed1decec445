"""Verdicts on packets that nftables queues: the datapath, its worker process, and who restarts the worker."""
