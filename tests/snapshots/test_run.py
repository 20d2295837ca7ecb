import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.errors import SnapshotError, SnapshotFormatError
from codistill.snapshots.run import LIFE_DOCUMENT, Run, new_run


def test_a_run_comes_back():
    run = Run(run_id="c0ffee")
    assert run.to_json() == b'{"format": 1, "run_id": "c0ffee"}'
    assert Run.from_json(run.to_json()) == run


def test_new_runs_differ():
    assert new_run() != new_run()
    assert Run.from_json(new_run().to_json()).run_id.isalnum()


def test_a_life_says_nothing_but_its_format():
    assert LIFE_DOCUMENT == b'{"format": 1}'


@pytest.mark.parametrize("run_id", ["", "../x", "XYZ", "0" * 65])
def test_an_id_that_is_not_hexadecimal_is_refused(run_id):
    with pytest.raises(SnapshotFormatError, match=r"run document at 'run\.json' .*run_id must"):
        Run.from_json(Run(run_id=run_id).to_json())


@settings(deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200))
def test_garbage_is_a_snapshot_error(data):
    with pytest.raises(SnapshotError):
        Run.from_json(data)
