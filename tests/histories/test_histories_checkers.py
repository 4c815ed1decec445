"""Each promise of docs/guarantees.md with its checker: a history that keeps it, and one that breaks it."""

import pytest

from histories import counters, final, registers, sessions, watches
from histories.final import Held
from histories.record import Operation, Recorder, counted, doubted, load
from histories.recording import outcome_of
from kdht.client._reads import LOST
from kdht.errors import Conflict, NotFound, RequestError, RequestTimeout, Unconfirmed


def op(kind, span, value=None, version=0, *, outcome="ok", client="a", key="k", condition=None, error=""):
    """An operation from the first to the second number of `span`, in seconds."""
    start, end = (round(second * 1e9) for second in span)
    return Operation(client, kind, key, start, end, outcome, value, version, condition, error)


def put(span, value, version, **more):
    return op("put", span, value, version, **more)


def get(span, value, version, **more):
    return op("get", span, value, version, **more)


def quorum(span, value, version, **more):
    return op("quorum_get", span, value, version, **more)


def gone(kind, span, **more):
    return op(kind, span, outcome="not_found", **more)


def promises(verdict):
    assert not verdict.undecided
    return {violation.promise for violation in verdict.violations}


# --- Registers -----------------------------------------------------------------------------


GOOD = [
    put((0, 1), "one", 10),
    quorum((2, 3), "one", 10),
    put((4, 5), "two", 20, condition=10),
    put((4, 5), "three", 20, condition=10, outcome="conflict"),
    op("put", (4, 20), "four", outcome="unknown"),
    quorum((6, 7), "four", 25),
    op("delete", (8, 9), condition=25),
    gone("quorum_get", (10, 11)),
    put((12, 13), "five", 30, condition=0),
    get((14, 15), "five", 30),
]


def test_a_history_that_keeps_all_promises():
    assert registers.check(GOOD).holds
    assert sessions.check(GOOD).holds


@pytest.mark.parametrize(
    ("expected", "history"),
    [
        ({"written", "linearizable"}, [put((0, 1), "one", 10), quorum((2, 3), "two", 11)]),
        ({"written"}, [get((0, 1), "one", 10), put((2, 3), "one", 10)]),
        ({"refused"}, [put((0, 1), "one", 0, outcome="refused"), get((2, 3), "one", 10)]),
        ({"refused"}, [put((0, 1), "one", 5, outcome="conflict", condition=9), get((2, 3), "one", 10)]),
        ({"one-record"}, [put((0, 1), "one", 10), get((2, 3), "one", 11)]),
        ({"one-record"}, [put((0, 1), "one", 10), put((0, 1), "two", 10)]),
        (
            {"order", "linearizable"},
            [put((0, 1), "one", 10), put((2, 3), "two", 20), quorum((4, 5), "one", 10)],
        ),
        ({"order"}, [put((0, 1), "one", 20), put((2, 3), "two", 10)]),
        (
            {"condition", "linearizable"},
            [
                put((0, 1), "one", 10),
                put((2, 3), "two", 20, condition=10),
                put((2, 3), "three", 30, condition=10),
            ],
        ),
        (
            {"condition", "linearizable"},
            [put((0, 1), "one", 1, condition=0), put((0, 1), "two", 2, condition=0)],
        ),
        ({"linearizable"}, [put((0, 1), "one", 10), op("delete", (2, 3)), quorum((4, 5), "one", 10)]),
        ({"linearizable"}, [put((0, 1), "one", 10), gone("quorum_get", (2, 3))]),
        (
            {"linearizable"},
            [put((0, 1), "one", 10), op("delete", (2, 3)), put((4, 5), "two", 20, condition=10)],
        ),
    ],
)
def test_the_checker_names_the_broken_promise(expected, history):
    assert promises(registers.check(history)) == expected


def test_quorum_reads_of_other_keys_do_not_count():
    assert registers.check([put((0, 1), "one", 10), gone("quorum_get", (2, 3), key="other")]).holds


def test_refused_writes_and_unseen_unknown_writes_change_nothing():
    history = [
        put((0, 1), "one", 10),
        put((2, 3), "two", 0, outcome="refused"),
        op("put", (2, 3), "three", outcome="unknown"),
        op("delete", (2, 3), outcome="unknown"),
        quorum((4, 5), "one", 10),
    ]
    assert registers.check(history).holds


def test_a_divided_cluster_promises_no_order():
    history = [put((0, 1), "one", 10), put((2, 3), "two", 20), quorum((4, 5), "one", 10)]
    assert registers.check(history, linearizable=False).holds


def test_an_undecided_history_is_no_success():
    history = [put((0, 9), f"{number}", number) for number in range(1, 20)]
    verdict = registers.check([*history, quorum((10, 11), "x", 99)], budget=100)
    assert verdict.undecided
    assert not verdict.holds


# --- Sessions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "history"),
    [
        ({"own-writes"}, [put((0, 1), "one", 10), put((2, 3), "two", 20), get((4, 5), "one", 10)]),
        ({"monotonic"}, [get((0, 1), "two", 20), get((2, 3), "one", 10)]),
        ({"monotonic"}, [get((0, 1), "two", 20), gone("get", (2, 3))]),
        ({"monotonic"}, [quorum((0, 1), "two", 20), get((2, 3), "one", 10)]),
        ({"own-deletes"}, [put((0, 1), "one", 10, client="b"), op("delete", (2, 3)), get((4, 5), "one", 10)]),
        # The deletion that somebody else made came before the value.
        (
            {"monotonic"},
            [
                op("delete", (0, 1), client="b"),
                put((2, 3), "one", 10, client="b"),
                get((4, 5), "one", 10),
                gone("get", (6, 7)),
            ],
        ),
    ],
)
def test_a_client_that_goes_back_in_time_is_named(expected, history):
    assert promises(sessions.check(history)) == expected


def test_an_older_record_is_allowed_after_a_reported_loss():
    told = op("get", (4, 5), outcome="unknown", error=f"Unconfirmed: get 'k': {LOST}")
    history = [put((0, 1), "one", 10), put((2, 3), "two", 20), told, get((6, 7), "one", 10)]
    assert sessions.check(history).holds
    assert not sessions.check([*history[:2], op("get", (4, 5), outcome="unknown"), history[3]]).holds


@pytest.mark.parametrize(
    "history",
    [
        [get((0, 1), "two", 20), get((2, 3), "one", 10, client="b")],
        [get((0, 5), "two", 20), get((1, 6), "one", 10)],
        [get((0, 1), "one", 10), op("delete", (2, 9), client="b", outcome="unknown"), gone("get", (3, 4))],
        [op("delete", (0, 1)), get((2, 3), "one", 10)],  # written at the same time, for all that is known
        [put((0, 1), "one", 0, outcome="refused"), gone("get", (2, 3))],
    ],
)
def test_a_possible_deletion_or_another_clients_read_is_no_regression(history):
    assert sessions.check(history).holds


# --- Counters ------------------------------------------------------------------------------


def counter(*history):
    return promises(
        counters.check([item.__class__(**{**_fields(item), "key": "counter-1"}) for item in history])
    )


def _fields(item):
    return {name: getattr(item, name) for name in item.__struct_fields__}


def test_a_counter_is_between_acknowledged_and_tried_increments():
    assert not counter(
        put((0, 1), "1 a", 10, condition=0),
        op("put", (2, 3), "2 b", outcome="unknown", condition=10),
        put((4, 5), "3 c", 30, condition=20),
        quorum((6, 7), "3 c", 30),
    )


@pytest.mark.parametrize(
    "history",
    [
        [put((0, 1), "1 a", 10), put((2, 3), "2 b", 20), quorum((4, 5), "1 a", 10)],
        [put((0, 1), "1 a", 10), put((0, 1), "1 b", 11), quorum((4, 5), "1 b", 11)],
        [put((0, 1), "1 a", 10), gone("quorum_get", (4, 5))],
        [put((0, 1), "1 a", 10), quorum((4, 5), "5 x", 20)],
    ],
)
def test_lost_and_surplus_updates_are_named(history):
    assert counter(*history) == {"counted"}


# --- Watches -------------------------------------------------------------------------------


def told(span, value, version, **more):
    return op("watch", span, value, version, **more)


def test_a_good_watch_reaches_the_last_state():
    history = [
        gone("watch", (0, 1)),
        told((0, 2), "one", 10),
        put((1, 3), "two", 20),
        told((0, 4), "two", 20),
    ]
    assert watches.check(history).holds


@pytest.mark.parametrize(
    "history",
    [
        [told((0, 2), "two", 20), told((0, 3), "one", 10), told((0, 4), "two", 20)],
        [told((0, 2), "one", 10), put((1, 3), "two", 20)],
        [gone("watch", (0, 2)), put((1, 3), "two", 20)],
    ],
)
def test_a_watch_that_goes_back_or_misses_the_last_is_named(history):
    assert promises(watches.check(history)) == {"watched"}


# --- What stands in the end ----------------------------------------------------------------


def held(*records):
    return {"k": [Held(f"n{number}", *record) for number, record in enumerate(records, 1)]}


def test_all_replicas_hold_the_last_write():
    assert final.check([put((0, 1), "one", 10)], held((10, "one"), (10, "one")), 2).holds
    assert final.check([put((0, 1), "one", 10)], held((11, None), (11, None)), 2).holds


@pytest.mark.parametrize(
    ("expected", "records"),
    [
        ({"agreed", "kept"}, held((10, "one"), (9, "zero"))),
        ({"agreed"}, held((10, "one"))),
        ({"agreed"}, held((10, "one"), (12, "late"))),
        ({"kept"}, held((8, None), (8, None))),
        ({"kept"}, {}),
        ({"traced"}, held((12, "nobody"), (12, "nobody"))),
        ({"traced"}, held((12, "refused"), (12, "refused"))),
        ({"traced"}, held((12, "one"), (12, "one"))),
    ],
)
def test_wrong_replicas_are_named(expected, records):
    history = [
        put((0, 1), "one", 10),
        op("put", (0, 1), "zero", outcome="unknown"),
        op("put", (0, 1), "late", outcome="unknown"),
        put((0, 1), "refused", 0, outcome="refused"),
    ]
    assert promises(final.check(history, records, 2)) == expected


# --- The record of it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NotFound("x", "NOT_FOUND"), "not_found"),
        (Conflict("x", version=7), "conflict"),
        (RequestTimeout("x"), "unknown"),
        (Unconfirmed("x", "UNCONFIRMED"), "unknown"),
        (RequestError("x", "BUSY"), "refused"),
        (RequestError("closed"), "unknown"),
    ],
)
def test_only_a_refusal_proves_that_nothing_changed(error, outcome):
    assert outcome_of(error)[0] == outcome


def test_late_copies_put_refusals_in_doubt_and_unmet_conditions_not():
    busy, unmet = (
        put((0, 1), "one", 0, outcome="refused"),
        put((2, 3), "two", 5, outcome="conflict", condition=9),
    )
    read = [get((4, 5), "one", 10), get((6, 7), "two", 20)]
    assert promises(registers.check([busy, *read[:1]])) == {"refused"}
    assert promises(registers.check(doubted([busy, *read[:1]]))) == set()
    assert promises(registers.check(doubted([unmet, *read[1:]]))) == {"refused"}


def test_a_recorded_history_is_read_back_in_order(tmp_path):
    with Recorder(tmp_path / "b.jsonl") as late, Recorder(tmp_path / "a.jsonl") as early:
        late.add(GOOD[1])
        early.add(GOOD[0])
    assert load(sorted(tmp_path.glob("*.jsonl"))) == GOOD[:2]
    assert counted(tmp_path / "a.jsonl") == counted(tmp_path / "b.jsonl") == 1
    assert counted(tmp_path / "c.jsonl") == 0
