"""The daemon as a process: its start and end, signals, memory."""
