"""Faces: servers that speak other protocols (DNS, HTTP, BEP 15) and answer from the cluster. docs/faces.md.

They run in one process beside the node, the program kdht-faces, so strangers' bytes are parsed outside of the daemon that holds
the packet path, and a face never blocks the node.
"""
