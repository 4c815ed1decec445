"""The demonstration behind `make demo`: a cluster, real packets, a real data set, and the proof."""
