import pytest

from codistill.exchange.checkpoint.changes import Changes
from codistill.exchange.checkpoint.delivery import Delivery
from codistill.parallel.group import PeerRanks
from codistill.testing.inline_background import InlineBackground


@pytest.fixture
def delivery():
    return Delivery(PeerRanks(), InlineBackground().worker("decode"), is_pinned=False)


def test_a_single_rank_has_at_once_what_it_brings(delivery):
    changes = Changes(wanted=("b",))
    delivery.announce(changes)
    assert delivery.bring() is changes
    assert not delivery.is_under_way
