"""Layer 5: the process around a node: configuration, event loop, signals, control socket."""
