import pytest
from torch import nn

from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.classroom import Classroom
from codistill.exchange.checkpoint.delivery import Delivery
from codistill.exchange.checkpoint.fading import Fading
from codistill.exchange.checkpoint.fetcher import Fetcher
from codistill.exchange.checkpoint.part_reader import PartReader
from codistill.exchange.teachers import TeacherOptions
from codistill.parallel.group import PeerRanks
from codistill.stores.memory import MemoryStore
from codistill.testing.inline_background import InlineBackground


@pytest.fixture
def delivery():
    classroom = Classroom(nn.Linear(1, 1), TeacherOptions(), Fading(max_age_steps=1, when_stale="keep"))
    parts = PartReader(classroom, Fetcher(MemoryStore(), run_id=None, max_bytes=None))
    return Delivery(PeerRanks(), InlineBackground().worker("decode"), parts, is_pinned=False)


def test_a_single_rank_has_at_once_what_it_brings(delivery):
    changes = Changes(wanted=("b",))
    delivery.announce(changes)
    assert delivery.bring() == changes
    assert not delivery.is_under_way
