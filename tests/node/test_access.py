"""Who may do what: every reason for a refusal, and proofs that were made for another request."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tokens import EPOCH, SECRET, body_of_put, proven, token

from kdht.node.access import KINDS, MAX_KNOWN, OPEN, READS, REASONS, WRITES, Access, AccessPolicy, body_of
from kdht.times import UnixTime
from kdht.wire import FIELD, OFFSET, Message, hash_key
from kdht.wire._shared import HEADER_LEN, PROOF_LEN, Flag, Op, Right
from kdht.wire.keys import derive_access
from kdht.wire.limits import MAX_CLOCK_ERROR
from kdht.wire.rights import ALL_RIGHTS, Grant, Token, open_token, scope_of

NOW = UnixTime(1_800_000_000.0)
SEQ = int(NOW * 1_000_000)
KEYS = (derive_access(EPOCH, SECRET.encode()),)
LEASE = (30).to_bytes(4, "big")
BODIES = {
    Op.GET: b"",
    Op.QUORUM_GET: bytes(50),
    Op.WATCH: LEASE,
    Op.PUT: body_of_put(b"v"),
    Op.DELETE: b"",
}
KIND = {op: WRITES if op in (Op.PUT, Op.DELETE) else READS for op in BODIES}


def policy(**changes: object) -> AccessPolicy:
    asked = AccessPolicy("token", "token", KEYS, frozenset({scope_of("scratch")}), frozenset())
    return asked._replace(**changes)


def reason(made: Token, op: Op = Op.PUT, *, seq: int = SEQ, **changes: object) -> str:
    return Access(policy(**changes)).refusal(KIND[op], proven(made, op, "a", BODIES[op], seq), NOW)


@pytest.mark.parametrize("op", BODIES)
@pytest.mark.parametrize("scope", ["", "billing"])
def test_a_token_is_good_for_what_it_says(op, scope):
    assert reason(token(scope=scope), op) == ""


@pytest.mark.parametrize("op", BODIES)
def test_a_request_without_a_proof_is_refused(op):
    plain = bytes(Message(op=op, key=hash_key("a"), request_id=1, body=BODIES[op]).pack())
    assert Access(policy()).refusal(KIND[op], plain, NOW) == "none"


@pytest.mark.parametrize("op", BODIES)
@pytest.mark.parametrize(
    ("why", "made", "changes"),
    [
        ("mac", token(secret="another access secret"), {}),
        ("mac", token(epoch=EPOCH + 1), {}),
        ("mac", token(), {"keys": ()}),
        ("mac", Token(token().grant, bytes(16)), {}),
        ("mac", open_token("closed"), {}),
        ("mac", open_token(""), {}),
        ("expired", token(expiry=int(NOW)), {}),
        ("expired", token(expiry=1), {"revoked": frozenset({token().grant.holder})}),
        ("revoked", token(), {"revoked": frozenset({token().grant.holder})}),
        ("right", token(rights=Right.ANNOUNCE), {}),
    ],
)
def test_a_refusal_has_its_reason(op, why, made, changes):
    assert reason(made, op, **changes) == why


def test_each_right_is_for_its_operation():
    needed = {
        Op.GET: Right.READ, Op.QUORUM_GET: Right.READ, Op.WATCH: Right.WATCH, Op.PUT: Right.WRITE,
        Op.DELETE: Right.DELETE,
    }  # fmt: skip
    for op, right in product(BODIES, Right):
        assert reason(token(rights=right), op) == ("" if needed[op] is right else "right")


def test_a_scopes_token_is_refused_elsewhere():
    made = token(scope="billing")
    other = bytearray(proven(made, Op.PUT, "a", BODIES[Op.PUT], SEQ))
    elsewhere = token()  # makes the proof for the plain key, with the grant of the scope
    forged = Token(made.grant, made.key)
    plain = proven(Token(made.grant._replace(scope=0), made.key), Op.PUT, "a", BODIES[Op.PUT], SEQ)
    access = Access(policy())
    assert access.refusal(WRITES, bytes(other), NOW) == ""
    assert access.refusal(WRITES, plain, NOW) == "mac"
    assert access.refusal(WRITES, _for_key(forged, hash_key("a")), NOW) == "scope"
    assert access.refusal(WRITES, proven(elsewhere, Op.PUT, "a", BODIES[Op.PUT], SEQ), NOW) == ""


def _for_key(made: Token, key: bytes) -> bytes:
    """A proven PUT by the token's own holder, for a key outside its scope."""
    from kdht.wire.rights import prove

    body = BODIES[Op.PUT]
    proof = prove(made.key, made.grant.pack(), Op.PUT, hash_key("a"), key, SEQ, body)
    return bytes(Message(op=Op.PUT, key=key, request_id=1, flags=Flag.PROVEN, body=body + proof).pack())


def test_an_open_scope_is_for_everybody():
    assert reason(open_token("scratch")) == ""
    assert reason(token(scope="scratch")) == ""


@pytest.mark.parametrize("op", [Op.GET, Op.QUORUM_GET, Op.WATCH])
@pytest.mark.parametrize(
    ("off", "why"),
    [
        (0, ""),
        (MAX_CLOCK_ERROR, ""),
        (-MAX_CLOCK_ERROR, ""),
        (MAX_CLOCK_ERROR + 1, "seq"),
        (-MAX_CLOCK_ERROR - 1, "seq"),
    ],
)
def test_a_captured_read_is_good_for_a_minute(op, off, why):
    assert reason(token(), op, seq=SEQ + off) == why


def test_a_proven_write_needs_a_version():
    assert reason(token(), seq=0) == "seq"
    # Its version is judged by the coordinator, as that of any write.
    assert reason(token(), seq=1) == ""


@given(some.sampled_from(list(BODIES)), some.data())
def test_a_captured_proof_fits_no_other_request(op, data):
    """Another key, operation, body, version or grant: any byte under the MAC."""
    good = proven(token(), op, "a", BODIES[op], SEQ)
    where = data.draw(
        some.sampled_from(
            [OFFSET["op"], *range(FIELD["key"].start, FIELD["key"].stop), *range(HEADER_LEN, len(good))]
        )
    )
    changed = bytearray(good)
    if where == OFFSET["op"]:
        changed[where] = data.draw(some.sampled_from([other for other in BODIES if other is not op]))
    else:
        changed[where] ^= data.draw(some.integers(1, 255))
    assert Access(policy()).reason(bytes(changed), NOW) == "mac"


@given(some.binary(max_size=200), some.sampled_from(list(BODIES)))
def test_any_bytes_are_refused_without_an_error(body, op):
    data = bytes(Message(op=op, key=bytes(20), request_id=1, flags=Flag.PROVEN, body=body).pack())
    assert Access(policy()).reason(data, NOW) == "mac"


def test_a_longer_body_is_another_request():
    made = token()
    good = proven(made, Op.PUT, "a", BODIES[Op.PUT], SEQ)
    longer = bytes(
        Message(
            op=Op.PUT,
            key=hash_key("a"),
            request_id=1,
            flags=Flag.PROVEN,
            body=good[HEADER_LEN:] + good[-PROOF_LEN:],
        ).pack()
    )
    assert Access(policy()).reason(longer, NOW) == "mac"


@pytest.mark.parametrize("kind", KINDS)
def test_count_lets_through_and_counts_what_token_would_refuse(kind):
    op = Op.PUT if kind == WRITES else Op.GET
    plain = bytes(Message(op=op, key=hash_key("a"), request_id=1, body=BODIES[op]).pack())
    counting = Access(policy(writes="count", reads="count"))
    assert counting.refusal(kind, plain, NOW) == ""
    assert counting.refusal(kind, proven(token(), op, "a", BODIES[op], SEQ), NOW) == ""
    assert counting.would_deny == {(kind, "none"): 1}
    assert not counting.denied
    counting.set_policy(policy())
    assert counting.refusal(kind, plain, NOW) == "none"
    assert counting.denied == {(kind, "none"): 1}


def test_an_open_policy_asks_and_counts_nothing():
    access = Access(OPEN)
    plain = bytes(Message(op=Op.PUT, key=hash_key("a"), request_id=1, body=BODIES[Op.PUT]).pack())
    assert (access.refusal(WRITES, plain, NOW), access.asks_readers) == ("", False)
    assert not access.denied
    assert not access.would_deny


def test_every_reason_that_is_given_is_listed():
    given_reasons = {"none", "mac", "expired", "revoked", "right", "scope", "seq"}
    assert set(REASONS) == given_reasons


def test_a_new_policy_forgets_the_keys_of_the_old_one():
    access = Access(policy())
    data = proven(token(), Op.PUT, "a", BODIES[Op.PUT], SEQ)
    assert access.reason(data, NOW) == ""
    access.set_policy(policy(keys=()))
    assert access.reason(data, NOW) == "mac"


def test_the_memory_for_grants_is_bounded():
    access = Access(policy())
    for number in range(MAX_KNOWN + 10):
        made = token(holder=f"{number + 1:016x}")
        assert access.reason(proven(made, Op.DELETE, "a", b"", SEQ), NOW) == ""
    assert len(access._judge._known) <= MAX_KNOWN


def test_strangers_do_not_fill_the_memory_for_grants():
    access = Access(policy())
    for number in range(100):
        stranger = Token(Grant(ALL_RIGHTS, EPOCH, 0, number + 1, 0), bytes(16))
        assert access.reason(proven(stranger, Op.DELETE, "a", b"", SEQ), NOW) == "mac"
    assert not access._judge._known


def test_the_body_is_what_is_before_the_proof():
    data = proven(token(), Op.PUT, "a", BODIES[Op.PUT], SEQ)
    assert body_of(data) == (BODIES[Op.PUT], SEQ)
    plain = bytes(Message(op=Op.PUT, key=hash_key("a"), request_id=1, body=b"x").pack())
    assert body_of(plain) == (b"x", None)


@pytest.mark.parametrize(
    ("mode", "made", "writer"),
    [
        ("token", token(), b"holder" + token().grant.holder.to_bytes(8, "big")),
        ("token", open_token("scratch"), None),
        ("count", token(), None),
        ("open", token(), None),
    ],
)
def test_only_a_checked_proof_names_a_writer(mode, made, writer):
    data = proven(made, Op.PUT, "a", body_of_put(b"v"), SEQ)
    assert Access(policy(writes=mode)).writer_of(data) == writer


def test_a_write_without_a_proof_counts_for_no_holder():
    plain = bytes(Message(op=Op.PUT, key=hash_key("a"), request_id=1, body=body_of_put(b"v")).pack())
    assert Access(policy()).writer_of(plain) is None
