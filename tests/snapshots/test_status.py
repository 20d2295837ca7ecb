import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.errors import SnapshotError, SnapshotFormatError
from codistill.snapshots.status import (
    MAX_ADVICE,
    MAX_READING,
    MAX_SENTENCE,
    MAX_STATUS_BYTES,
    MAX_TOLD,
    Status,
)

SETTINGS = settings(deadline=None, derandomize=True, database=None)
COUNTERS = st.integers(0, 2**63 - 1)
LOSSES = st.none() | st.floats(allow_nan=False, allow_infinity=False)
PEERS = st.from_regex("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(
    lambda x: x.lower() != "run.json"
)
STATUSES = st.builds(
    Status,
    run_id=st.from_regex("[0-9a-f]{1,64}", fullmatch=True),
    peer=PEERS,
    incarnation=COUNTERS,
    heartbeat=COUNTERS,
    step=COUNTERS,
    samples=COUNTERS,
    task_loss=LOSSES,
    distillation_loss=LOSSES,
    state=st.sampled_from(["running", "finished", "left"]),
    reading=st.dictionaries(PEERS, st.tuples(COUNTERS, COUNTERS), max_size=5),
    weight=LOSSES,
    agreement=st.dictionaries(PEERS, st.floats(0, 1), max_size=5),
    ages=st.dictionaries(PEERS, COUNTERS, max_size=5),
    quarantined=st.lists(PEERS, max_size=5).map(tuple),
    stall_s=LOSSES,
    running_s=LOSSES,
    advice=st.lists(st.text(st.characters(exclude_categories=["C"]), max_size=500), max_size=8).map(tuple),
    waits_for=st.none() | st.text(st.characters(exclude_categories=["C"]), max_size=500),
)


def make_status(**changes):
    fields = {
        "run_id": "c0ffee",
        "peer": "a",
        "incarnation": 0,
        "heartbeat": 5,
        "step": 100,
        "samples": 3200,
        "task_loss": 0.25,
        "distillation_loss": None,
        "state": "running",
        "reading": {"b": (0, 3)},
    }
    return Status(**{**fields, **changes})


def changed(**changes):
    return json.dumps({**json.loads(make_status().to_json()), **changes}).encode()


@SETTINGS
@given(STATUSES)
def test_every_status_comes_back(status):
    assert Status.from_json(status.to_json(), key=f"{status.peer}/status.json") == status


def test_the_largest_status_is_within_the_limit():
    reading = {f"{i:064d}": (2**63 - 1, 2**63 - 1) for i in range(MAX_READING)}
    largest = make_status(
        reading=reading,
        agreement=dict.fromkeys(reading, 1 / 3),
        ages=dict.fromkeys(reading, 2**63 - 1),
        quarantined=tuple(reading),
        advice=("x" * 2 * MAX_SENTENCE,) * 2 * MAX_ADVICE,
        waits_for="x" * 2 * MAX_SENTENCE,
    )
    assert len(largest.to_json()) <= MAX_STATUS_BYTES
    back = Status.from_json(largest.to_json(), key="a/status.json")
    assert (len(back.reading), len(back.agreement), len(back.advice)) == (MAX_READING, MAX_TOLD, MAX_ADVICE)
    with pytest.raises(ValueError, match="reading must have at most 256 entries, got 257"):
        make_status(reading={**reading, "one-more": (0, 0)})


@pytest.mark.parametrize("loss", [float("nan"), float("-inf")])
def test_a_loss_that_is_not_finite_is_written_as_null(loss):
    status = make_status(task_loss=loss, distillation_loss=loss)
    back = Status.from_json(status.to_json(), key="a/status.json")
    assert (back.task_loss, back.distillation_loss) == (None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 9}, "format 9 .* Upgrade"),
        ({"run_id": "no hex"}, "run_id must"),
        ({"peer": "../a"}, "peer must be 1 to 64"),
        ({"heartbeat": -1}, "heartbeat must"),
        ({"step": 1.5}, "step must"),
        ({"samples": None}, "samples must"),
        ({"task_loss": "low"}, "task_loss must be a number or null"),
        ({"state": "asleep"}, "state must be .*got 'asleep'"),
        ({"state": "running\n"}, "state must"),
        ({"reading": []}, "reading must"),
        ({"reading": {"b/c": [0, 0]}}, r"reading\['b/c'\] must be 1 to 64"),
        ({"reading": {"b": [0]}}, r"reading\['b'\] must be incarnation and sequence"),
        ({"reading": {"b": [0, -1]}}, r"reading\['b'\]\[1\] must"),
        ({"reading": {f"p{i}": [0, 0] for i in range(257)}}, "reading must have at most 256"),
        ({"weight": "much"}, "weight must be a number or null"),
        ({"agreement": {"b": 1.5}}, r"agreement\['b'\] must be a number between 0 and 1, got 1.5"),
        ({"agreement": {"b": True}}, r"agreement\['b'\] must be a number between 0 and 1"),
        ({"agreement": {"../b": 0.5}}, r"agreement\['../b'\] must be 1 to 64"),
        ({"ages": {"b": -1}}, r"ages\['b'\] must be an integer"),
        ({"ages": {f"p{i}": 0 for i in range(65)}}, "ages must have at most 64"),
        ({"quarantined": ["b/c"]}, "peer must be 1 to 64"),
        ({"advice": ["look\x1b[2J"]}, "advice must be a string that matches"),
        ({"advice": ["x" * 501]}, "advice must be a string that matches"),
        ({"advice": [""] * 9}, "advice must have at most 8"),
    ],
)
def test_a_bad_field_is_named(changes, message):
    with pytest.raises(SnapshotFormatError, match=message) as caught:
        Status.from_json(changed(**changes), key="a/status.json")
    assert (caught.value.peer, caught.value.key) == ("a", "a/status.json")


def test_a_status_that_was_written_before_there_was_more_to_tell_is_read():
    document = json.loads(make_status().to_json())
    for field in ("weight", "agreement", "ages", "quarantined", "stall_s", "running_s", "advice"):
        del document[field]
    assert Status.from_json(json.dumps(document).encode(), key="a/status.json") == make_status()


def test_a_prediction_under_a_name_that_no_peer_may_have_spoils_no_status():
    status = make_status(agreement={"b": 0.5, "b, second head": 0.25})
    assert Status.from_json(status.to_json(), key="a/status.json").agreement == {"b": 0.5}


def test_a_status_of_another_peer_is_refused():
    with pytest.raises(SnapshotFormatError, match="stored for, got 'a'"):
        Status.from_json(make_status().to_json(), key="b/status.json")


@SETTINGS
@given(st.binary(max_size=300), st.integers(0, 250), st.integers(0, 250))
def test_garbage_is_a_snapshot_error(garbage, start, length):
    data = make_status().to_json()
    damaged = data[:start] + garbage + data[start + length :]
    for candidate in (garbage, damaged):
        try:
            Status.from_json(candidate, key="a/status.json")
        except SnapshotError as error:
            assert error.key == "a/status.json"  # noqa: PT017 - what is still a status is fine too
