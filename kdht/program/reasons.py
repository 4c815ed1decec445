"""What each reason of a verdict means, in a sentence, for every program that shows reasons."""

from kdht.wire import _shared as shared
from kdht.wire._shared import Reason

WHY = {
    Reason.NOT_OURS: "It is not UDP to an own address and port with kdht's magic, so it is left alone.",
    Reason.OWNER: "No contact is closer to the key than this node, so this node owns it.",
    Reason.ATTEMPT_ENDS: "Attempt {attempt} leaves out that many closer contacts, and there are not more.",
    Reason.TRACE_ENDS: "A TRACE is answered where its hops end.",
    Reason.CONTROL: "Control messages are the daemon's.",
    Reason.FAMILY: "The way on is over the other IP version, which only the socket can take.",
    Reason.NOT_READY: "The node's state was not published yet.",
    Reason.ENTERED: "A client's request: the entry node fills in where it came from, tags it and sends it on.",
    Reason.NEXT_HOP: "A member's request: it goes on to the closest contact, one hop fewer left.",
    Reason.RELAYED: "A reply for a client of this entry node: stripped of what is the cluster's, and sent on.",
    Reason.TRUNCATED: "The UDP payload is shorter than a header of {header_len} bytes.",
    Reason.BAD_MAGIC: "The message does not begin with the magic.",
    Reason.BAD_VERSION: "Only version {version} is known.",
    Reason.BAD_LENGTH: "The body length is not what follows the header.",
    Reason.TOO_LONG: "A body has at most {max_body} bytes.",
    Reason.BAD_FLAGS: "Flags or reserved bytes that nobody may set are set.",
    Reason.BAD_OP: "There is no such op.",
    Reason.FORGED_ORIGIN: "A client (no FORWARDED flag) filled in what is the entry node's.",
    Reason.BAD_EPOCH: "This node has no key of the message's epoch.",
    Reason.BAD_TAG: "The header was not tagged under this cluster's key, or was changed on the way.",
    Reason.BAD_BODY_TAG: "The header is right, but the body is not the one that was tagged.",
    Reason.STALE: "Its time is further than {window} s from now.",
    Reason.HOP_LIMIT: "No hops are left.",
    Reason.NOT_ENTRY: "A reply whose entry node is another one.",
    Reason.BAD_ADDRESS: "The answer would go to an address that no single host can have.",
    Reason.BAD_IP: "IP's or UDP's lengths cannot be.",
    Reason.FRAGMENT: "A fragment: no message is so long that it needs any.",
    Reason.IP_OPTIONS: "IP options: no sender of ours makes them.",
    Reason.EXT_HEADER: "An IPv6 extension header: no sender of ours makes them.",
    Reason.NO_CHECKSUM: "UDP over IPv6 has a checksum.",
    Reason.NO_NEIGHBOUR: "The kernel does not know the next hop's link address yet.",
    Reason.NO_ROUTE: "The kernel would not send it there.",
    Reason.MARTIAN: "Nothing can come from its source: no single host has it, or this one does.",
    Reason.BAD_CHECKSUM: "The checksum of the IPv4 header is wrong.",
    Reason.PARTIAL: "Its checksum is left to a device, and in generic mode it would be completed twice.",
    Reason.ANSWERED: "A GET of a hot record: the XDP program has answered it at the interface.",
    Reason.NO_ROOM: "The answer to a GET of a hot record is longer than its frame can become.",
    Reason.RATE_LIMITED: "Its sender has sent more than it may.",
    Reason.NEEDS_COOKIE: "Only clients with a cookie for their address may send this: the answer is COOKIE_NEEDED.",
    Reason.NOT_ALLOWED: "Requests of this kind are not allowed from its address.",
}


def meaning(reason: Reason) -> str:
    """The sentence, with the usual figures."""
    return WHY[reason].format(
        attempt="n",
        header_len=shared.HEADER_LEN,
        version=shared.VERSION,
        max_body=shared.MAX_BODY,
        window=shared.REPLAY_WINDOW,
    )
