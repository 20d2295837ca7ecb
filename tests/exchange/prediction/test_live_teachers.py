import warnings

import pytest
import torch

from codistill.errors import CodistillWarning
from codistill.exchange.notices import Notices
from codistill.exchange.prediction.agreement import SwapHeader
from codistill.exchange.prediction.live_teachers import LiveTeachers


def met(*peers, step=7):
    teachers = LiveTeachers(Notices())
    teachers.meet({peer: SwapHeader(step=step, samples=70, layout=1) for peer in peers}, swaps=3)
    return teachers


def test_teachers_are_those_of_the_last_swap():
    teachers = met("10", "2", "1")
    assert list(teachers.describe()) == ["1", "10", "2"]
    info = teachers.describe()["2"]
    assert (info.peer, info.step, info.samples, info.sequence, info.age_steps) == ("2", 7, 70, 3, 0)
    assert (info.share, info.is_quarantined) == (1.0, False)
    assert LiveTeachers(Notices()).describe() == {}


def test_a_share_on_an_accelerator_is_read_at_the_next_look():
    teachers = met("1", "2")
    for share in (1.0, 0.0, 1.0):  # a bad one among good ones is not missed
        teachers.note("1", torch.tensor(share))
        teachers.note("2", torch.tensor(1.0))
    assert teachers.describe()["1"].share == 1.0
    with pytest.warns(CodistillWarning, match="Peer '1' is not learnt from at step 7") as caught:
        teachers.look()
    assert len(caught) == 1
    assert (teachers.describe()["1"].share, teachers.describe()["1"].is_quarantined) == (0.0, True)
    assert teachers.describe()["2"].share == 1.0
    teachers.look()  # nothing new
    assert teachers.describe()["1"].is_quarantined
    teachers.note("1", torch.tensor(1.0))
    teachers.look()
    assert not teachers.describe()["1"].is_quarantined


def test_it_is_said_once_an_outage():
    teachers = met("1")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for share in (0.0, 0.0, 1.0, 0.0):
            teachers.note("1", share)
    assert len(caught) == 2


def test_nothing_is_said_of_good_teachers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teachers = met("1")
        teachers.note("1", 1.0)
        teachers.look()
