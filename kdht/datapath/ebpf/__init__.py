"""Verdicts in the kernel, by an XDP program on each interface."""
