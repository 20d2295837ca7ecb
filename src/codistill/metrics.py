"""How alike models predict, and how far one has come: plain functions on tensors.

They wait for the device and return Python floats: for evaluation, not for the training step.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def churn(predictions_a: Tensor, predictions_b: Tensor) -> float:
    """Return the share of examples on which two models predict different labels.

    Churn proper is between two independent retrainings of one pipeline, on the same test set in the same
    order (Bhojanapalli et al. 2021); between peers that taught each other the number says something else,
    see ``agreement``.

    Args:
        predictions_a: [examples, classes] scores of two or more classes, of which the largest is the
            label; or [examples] floating-point logits (not probabilities), label 1 above 0; or [examples]
            labels, integer or boolean.
        predictions_b: One of these forms, of the same examples.

    Returns:
        Between 0, the same everywhere, and 1.

    Raises:
        ValueError: If a form is none of these, there are no examples, or their numbers differ.

    Example:
        >>> churn(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]))
        0.25
    """
    labels_a = _labels("predictions_a", predictions_a)
    labels_b = _labels("predictions_b", predictions_b)
    if labels_a.shape != labels_b.shape:
        raise ValueError(
            f"predictions_b must be of the examples of predictions_a, {len(labels_a)}, got {len(labels_b)}. "
            "Predict the same test set in the same order."
        )
    return int((labels_a.cpu() != labels_b.cpu()).sum()) / len(labels_a)


def agreement(predictions_a: Tensor, predictions_b: Tensor) -> float:
    """Return the share of examples on which two models predict the same label.

    One minus ``churn``, said of peers that taught each other; how alike retrainings are it cannot tell.

    Args:
        predictions_a: As for ``churn``.
        predictions_b: As for ``churn``.

    Returns:
        Between 0 and 1, the same everywhere.

    Raises:
        ValueError: If a form is none of those, there are no examples, or their numbers differ.
    """
    return 1.0 - churn(predictions_a, predictions_b)


def mean_absolute_difference(probabilities_a: Tensor, probabilities_b: Tensor) -> float:
    """Return the mean of |p - p'| over examples and classes (Anil et al. 2018, section 4).

    The finer measure of churn, which also sees what does not change a label. For two classes
    [examples, 2] and [examples] give the same number.

    Args:
        probabilities_a: [examples], the probability of a click, say, or [examples, classes].
        probabilities_b: Same shape.

    Returns:
        Between 0 and 1, computed in float64.

    Raises:
        ValueError: If the shapes differ, there are no examples, or a value is not within [0, 1].
    """
    if probabilities_a.shape != probabilities_b.shape:
        raise ValueError(
            f"probabilities_b must have the shape of probabilities_a, {list(probabilities_a.shape)}, "
            f"got {list(probabilities_b.shape)}. Predict the same test set in the same order."
        )
    if probabilities_a.dim() not in (1, 2) or probabilities_a.numel() == 0:
        raise ValueError(
            "probabilities_a must be [examples] or [examples, classes] and not empty, "
            f"got {list(probabilities_a.shape)}. Flatten other dimensions into the examples."
        )
    a, b = (p.detach().cpu().to(torch.float64) for p in (probabilities_a, probabilities_b))
    for name, p in (("probabilities_a", a), ("probabilities_b", b)):
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError(
                f"{name} must lie within [0, 1], got {float(p.min())} to {float(p.max())}. "
                "Logits need a softmax or a sigmoid first."
            )
    return float((a - b).abs().mean())


def distance_from_initialisation(state: Mapping[str, Tensor], initial_state: Mapping[str, Tensor]) -> float:
    """Return the L2 distance of a model's weights from those it started with (Sodhani et al. 2020, fig. 1c).

    Counts every floating-point tensor that is handed in, buffers such as BatchNorm's running statistics
    too: pass ``dict(model.named_parameters())`` on both sides to leave them out. Integers do not count.
    A tensor under two names, as tied weights are in a ``state_dict``, counts under each.

    Args:
        state: Name -> tensor now.
        initial_state: Name -> tensor at the start: clones, as training changes tensors in place.

    Returns:
        The distance, summed in float64.

    Raises:
        ValueError: If names or shapes differ, or there is no floating-point tensor.
    """
    if state.keys() != initial_state.keys():
        different = sorted(state.keys() ^ initial_state.keys())
        raise ValueError(
            f"state must have the names of initial_state, got {different} in one of them only. "
            "Take both from the same model."
        )
    squares = 0.0
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    if not floating:
        raise ValueError("state must hold a floating-point tensor, got none. Pass model.state_dict().")
    for name, tensor in floating.items():
        initial = initial_state[name]
        if initial.shape != tensor.shape:
            raise ValueError(
                f"state must have the shapes of initial_state, got {list(tensor.shape)} and "
                f"{list(initial.shape)} for {name!r}. Take both from the same model."
            )
        difference = tensor.detach().to(torch.float64) - initial.detach().to(tensor.device, torch.float64)
        squares += float(difference.square().sum())
    return math.sqrt(squares)


def _labels(name: str, predictions: Tensor) -> Tensor:
    is_floating = predictions.is_floating_point()
    if predictions.dim() == 2 and is_floating and predictions.shape[0] > 0 and predictions.shape[1] > 1:
        return predictions.detach().argmax(dim=1)
    if predictions.dim() == 1 and len(predictions) > 0:
        return (predictions.detach() > 0).long() if is_floating else predictions.long()
    raise ValueError(
        f"{name} must be [examples, classes] scores of at least two classes, [examples] logits or [examples] "
        f"labels, got {list(predictions.shape)} of {predictions.dtype}. "
        "Flatten other dimensions, squeeze one class."
    )
