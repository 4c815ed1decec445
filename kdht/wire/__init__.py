"""Layer 0: the wire format. Messages to bytes and back; nothing here sends or receives.

Layouts come from include/kdht_shared.h through `_shared`. docs/protocol.md explains the fields. Integers are
big-endian.
"""

from kdht.wire.addresses import NO_IP, NOWHERE, Address, Contact, split_port
from kdht.wire.bodies import (
    CONTACT,
    EXTRA,
    GIVEN_BACK,
    PROMISE,
    RECORD,
    Record,
    pack_contacts,
    pack_decided,
    pack_immutable_write,
    pack_promise,
    pack_signed_write,
    pack_write,
    parse_contacts,
    parse_promise,
    parse_store,
    parse_write,
    promised_record,
)
from kdht.wire.buffer import Buffer
from kdht.wire.messages import (
    FIELD,
    HEADER,
    NO_FLAGS,
    OFFSET,
    STATUS_OF,
    Message,
    check_form,
    hash_key,
    pack_request,
    parse,
)
from kdht.wire.tags import body_tag, header_tag, make_cookie, seal, valid_cookie, verify

__all__ = [
    "Address",
    "Buffer",
    "CONTACT",
    "Contact",
    "EXTRA",
    "FIELD",
    "GIVEN_BACK",
    "HEADER",
    "Message",
    "NOWHERE",
    "NO_FLAGS",
    "NO_IP",
    "OFFSET",
    "PROMISE",
    "RECORD",
    "Record",
    "STATUS_OF",
    "body_tag",
    "check_form",
    "hash_key",
    "header_tag",
    "make_cookie",
    "pack_contacts",
    "pack_decided",
    "pack_immutable_write",
    "pack_promise",
    "pack_request",
    "pack_signed_write",
    "pack_write",
    "parse",
    "parse_contacts",
    "parse_promise",
    "parse_store",
    "parse_write",
    "promised_record",
    "seal",
    "split_port",
    "valid_cookie",
    "verify",
]
