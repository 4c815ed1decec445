"""Whether the record in an answer may be believed: a self-certified one only with its certificate. No I/O and no clock."""

from kdht.client._calls import Answer, Call
from kdht.errors import BadPacket, MissingLibrary
from kdht.wire import RECORD
from kdht.wire import _shared as shared
from kdht.wire._shared import Status
from kdht.wire.certified import check_certified, is_certified


def why_uncertified(call: Call, answer: Answer) -> str:
    """Why the record of an answer, OK or NOT_RESPONSIBLE, is not believed; empty if it is, or if there is none."""
    if len(answer.body) < shared.RECORD_LEN:
        return "a node gave no record" if call.certified and answer.status is Status.OK else ""
    version, _, flags = RECORD.unpack_from(answer.body)
    if not call.certified and not is_certified(version, flags):
        return ""
    if call.certified and not flags & call.certified:
        return "a node gave a record without a proof"
    try:
        check_certified(call.key, version, flags, answer.body[shared.RECORD_LEN :])
    except (BadPacket, MissingLibrary) as why:
        return f"a node gave a record with a wrong certificate: {why}"
    return ""
