"""The laboratory: network namespaces and clusters of real daemons, for tests, demo and bench."""
