import pytest

from codistill.lab.recipes.epochs import Epochs, equal_ranks

ONE = Epochs(batch_size=512, epochs=90, warmup=5, drops=(30, 60, 80))


def test_models_that_share_ranks_make_the_same_updates_in_a_share_of_the_epochs() -> None:
    for peers in (1, 2, 4):
        each = equal_ranks(ONE, peers=peers)
        assert each.updates(1_281_167) == ONE.updates(1_281_167) == 225_205
        assert each.batch_size * peers == 512
        assert each.epochs * peers == 90
        assert each.warmup * peers == 5
        assert tuple(drop * peers for drop in each.drops) == (30, 60, 80)


@pytest.mark.parametrize("peers", [0, 3])
def test_a_batch_that_cannot_be_divided_is_refused(peers: int) -> None:
    with pytest.raises(ValueError, match=f"peers must divide the batch of 512, got {peers}"):
        equal_ranks(ONE, peers=peers)


@pytest.mark.parametrize("drops", [(90,), (0, 30), (60, 30), (30, 30)])
def test_drops_outside_the_run_or_out_of_order_are_refused(drops: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="drops must rise strictly between 0 and 90 epochs"):
        Epochs(batch_size=512, epochs=90, drops=drops)
