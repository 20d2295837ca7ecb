import numpy as np
import pytest

from codistill.lab.tasks.clicks.standardisation import Standardisation


def test_training_features_have_mean_0_and_deviation_1() -> None:
    numbers = np.random.RandomState(0).poisson(5, size=(1000, 2)).astype(np.float32)
    features = Standardisation.fit([numbers]).features(numbers)
    assert features.dtype == np.float32
    assert features.mean(axis=0) == pytest.approx([0, 0], abs=1e-5)
    assert features.std(axis=0) == pytest.approx([1, 1], abs=1e-5)
    # The logarithm of 1 + x, so that large counts do not stand out.
    by_hand = np.log1p(numbers)
    assert features == pytest.approx((by_hand - by_hand.mean(axis=0)) / by_hand.std(axis=0), abs=1e-4)


def test_numbers_below_0_keep_their_sign() -> None:
    features = Standardisation.fit([np.array([[-9.0], [9.0]], dtype=np.float32)]).features(
        np.array([[-9], [-1], [0], [1], [9]], dtype=np.float32)
    )
    assert features[:, 0] == pytest.approx([-1, -np.log(2) / np.log(10), 0, np.log(2) / np.log(10), 1])


def test_a_missing_number_is_the_mean_and_told_where_training_lacks_some() -> None:
    train = np.array([[1, 1, 3], [3, np.nan, 3], [7, 5, 3]], dtype=np.float32)
    standardisation = Standardisation.fit([train])
    assert standardisation.has_missing.tolist() == [False, True, False]
    features = standardisation.features(train)
    assert features.shape == (3, 4)
    assert features[1, 1] == 0
    assert features[:, 3].tolist() == [0, 1, 0]
    # Missing in the first column, which never lacked one in training: the mean, without an indicator.
    elsewhere = standardisation.features(np.array([[np.nan, 1, 4]], dtype=np.float32))
    assert elsewhere.shape == (1, 4)
    assert elsewhere[0, 0] == 0
    assert elsewhere[0, 3] == 0


def test_columns_that_never_change_or_are_never_known_stay_finite() -> None:
    train = np.array([[1e6 + 0.1, np.nan]] * 1000, dtype=np.float32)
    standardisation = Standardisation.fit([train])
    assert standardisation.deviation.tolist() == [1, 1]
    assert standardisation.features(train) == pytest.approx(np.array([[0, 0, 1]] * 1000), abs=1e-4)


def test_parts_teach_what_the_whole_does() -> None:
    numbers = np.random.RandomState(0).poisson(2, size=(100, 3)).astype(np.float32)
    numbers[::7, 1] = np.nan
    whole = Standardisation.fit([numbers])
    parts = Standardisation.fit(numbers[start : start + 30] for start in range(0, 100, 30))
    assert parts.mean == pytest.approx(whole.mean)
    assert parts.deviation == pytest.approx(whole.deviation)
    assert parts.has_missing.tolist() == whole.has_missing.tolist()
