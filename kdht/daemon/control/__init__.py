"""The control socket: its server, and the methods that `kdhtctl` calls."""
