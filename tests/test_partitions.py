import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.partitions import deal_by_class, deal_evenly, permute

reproducible = settings(deadline=None, derandomize=True)


def shares(parts, classes):
    """Return which share of each class each part has, [classes, parts]."""
    counts = np.stack([np.bincount(classes[part], minlength=classes.max() + 1) for part in parts], axis=1)
    return counts / counts.sum(axis=1, keepdims=True)


@reproducible
@given(size=st.integers(0, 50), seed=st.integers(0, 2**70), branch=st.lists(st.integers(0, 9), min_size=1))
def test_a_permutation_has_every_number_once(size, seed, branch):
    assert sorted(permute(size, seed=seed, branch=branch)) == list(range(size))


def test_each_branch_of_a_seed_has_its_own_order():
    branches = [(0,), (1,), (0, 0), (0, 1), (1, 0)]
    orders = {tuple(permute(50, seed=0, branch=branch)) for branch in branches}
    assert len(orders) == len(branches)


@reproducible
@given(
    labels=st.lists(st.integers(0, 5), max_size=40),
    peers=st.integers(1, 6),
    alpha=st.floats(0, exclude_min=True, allow_infinity=False),
    seed=st.integers(0, 2**70),
)
def test_every_sample_is_dealt_once_and_nobody_goes_without_while_there_are_enough(
    labels, peers, alpha, seed
):
    classes = np.unique(np.array(labels, dtype=np.int64), return_inverse=True)[1]
    for parts in (
        deal_by_class(classes, peers=peers, alpha=alpha, seed=seed),
        deal_evenly(len(classes), peers=peers, seed=seed),
    ):
        assert len(parts) == peers
        assert sorted(np.concatenate(parts)) == list(range(len(classes)))
        assert all((np.diff(part) > 0).all() for part in parts)
        assert sum(len(part) > 0 for part in parts) == min(peers, len(classes))


@pytest.mark.parametrize("alpha", [0.05, 0.5, 2.0])
def test_shares_have_the_mean_and_the_variance_of_a_dirichlet_distribution(alpha):
    peers, samples = 4, 100
    classes = np.repeat(np.arange(4000), samples)
    drawn = shares(deal_by_class(classes, peers=peers, alpha=alpha, seed=1), classes)
    # Of 4000 draws; rounding to whole samples adds less than 1e-4.
    np.testing.assert_allclose(drawn.mean(axis=0), 1 / peers, atol=0.02)
    variance = (1 / peers) * (1 - 1 / peers) / (peers * alpha + 1)
    np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.06)


def test_peers_draw_apart_from_one_another_in_every_class():
    classes = np.repeat(np.arange(4000), 100)
    drawn = shares(deal_by_class(classes, peers=3, alpha=0.5, seed=1), classes)
    # Shares of a symmetric Dirichlet distribution over n have the correlation -1 / (n - 1).
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(3) * 1.5 - 0.5, atol=0.05)
    np.testing.assert_allclose(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1], 0, atol=0.05)


def test_a_tiny_alpha_gives_each_class_to_one_peer_and_a_huge_one_an_equal_share_to_each():
    classes = np.repeat(np.arange(50), 12)
    for alpha in (5e-324, 1e-6):
        drawn = shares(deal_by_class(classes, peers=4, alpha=alpha, seed=0), classes)
        assert sorted(set(drawn.ravel())) == [0, 1]
        assert (drawn.sum(axis=0) > 0).all()
    for alpha in (1e9, 1e308):
        assert (shares(deal_by_class(classes, peers=4, alpha=alpha, seed=0), classes) == 0.25).all()


def test_each_seed_draws_shares_of_its_own():
    classes = np.repeat(np.arange(10), 100)
    first, second = (
        shares(deal_by_class(classes, peers=2, alpha=0.5, seed=seed), classes) for seed in range(2)
    )
    assert (first != second).mean() > 0.5


def test_which_samples_of_a_class_a_peer_gets_is_drawn():
    classes = np.zeros(100, dtype=np.int64)
    first, second = deal_by_class(classes, peers=2, alpha=1e9, seed=0)
    assert len(first) == len(second) == 50
    assert 0.3 < np.isin(first, np.arange(50)).mean() < 0.7


def test_a_peer_that_would_be_empty_gets_one_sample_of_the_largest():
    classes = np.repeat([0, 1], [30, 3])
    parts = deal_by_class(classes, peers=4, alpha=1e-9, seed=0)
    assert sorted(map(len, parts)) == [1, 1, 3, 28]
    assert {len(part) for part in parts if 1 in classes[part]} == {3}
