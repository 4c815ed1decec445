"""Draws plain data with rich, a file for each room of commands; `kdht.cli.report` has the rest. It fetches nothing."""
