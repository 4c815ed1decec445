"""DNS: authoritative for one zone, whose names are sets and records of the cluster. docs/faces.md, docs/design/dns.md.

names       which name of the zone means what
cookies     server cookies (RFC 9018)
messages    untrusted bytes to queries, answers to bytes
records     members and values to resource records
answers     a query and what the cluster has, to an answer. These five have no I/O and no clock
lookups     what the cluster has, kept for a second
service     all of it together
streams     TCP
face        UDP, and the making of the parts
"""

from kdht.faces.dns.face import make

__all__ = ["make"]
