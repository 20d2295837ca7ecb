from codistill.exchange.checkpoint.backoff import Backoff


def attempts(backoff, intervals, *, fails):
    """Return at which intervals something is tried that fails or not each time."""
    tried = []
    for interval in range(intervals):
        if backoff.is_due():
            tried.append(interval)
            (backoff.note_failure if fails else backoff.note_success)()
    return tried


def test_what_goes_well_is_tried_at_every_interval():
    assert attempts(Backoff(), 5, fails=False) == [0, 1, 2, 3, 4]


def test_after_failures_in_a_row_0_then_1_then_3_intervals_pass():
    assert attempts(Backoff(), 16, fails=True) == [0, 1, 3, 7, 11, 15]


def test_a_success_begins_anew():
    backoff = Backoff()
    attempts(backoff, 11, fails=True)
    assert attempts(backoff, 5, fails=False) == [0, 1, 2, 3, 4]
    assert attempts(backoff, 6, fails=True) == [0, 1, 3]
