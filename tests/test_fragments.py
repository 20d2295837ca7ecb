import itertools
import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codistill.fragments import Box, Fragment

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=200)


@st.composite
def boxes(draw, count=1):
    """Return boxes of one tensor, and its shape."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    found = []
    for _ in range(count):
        starts = tuple(draw(st.integers(0, size)) for size in shape)
        sizes = tuple(draw(st.integers(0, size - start)) for size, start in zip(shape, starts, strict=True))
        found.append(Box(starts, sizes))
    return shape, found


def numbers(shape):
    """Return an array whose values say where they are."""
    return np.arange(math.prod(shape)).reshape(shape)


def cells(box):
    """Return every index that lies in a box."""
    ranges = [range(start, start + size) for start, size in zip(box.offsets, box.shape, strict=True)]
    return set(itertools.product(*ranges))


@SETTINGS
@given(boxes())
def test_within_selects_the_box_from_the_whole(drawn):
    shape, (box,) = drawn
    selected = numbers(shape)[box.within(Box.whole(shape))]
    assert selected.shape == box.shape
    assert selected.size == box.elements == len(cells(box))
    assert {tuple(map(int, np.unravel_index(n, shape))) for n in selected.ravel()} == cells(box)


@SETTINGS
@given(boxes(count=2))
def test_an_intersection_is_what_lies_in_both(drawn):
    shape, (one, other) = drawn
    found = one.intersect(other)
    assert found == other.intersect(one)
    assert (set() if found is None else cells(found)) == cells(one) & cells(other)
    if found is not None:
        whole = Box.whole(shape)
        of_one = numbers(shape)[one.within(whole)]
        assert np.array_equal(of_one[found.within(one)], numbers(shape)[found.within(whole)])


@SETTINGS
@given(boxes(count=2))
def test_a_span_holds_a_box_and_is_no_longer_than_it_must_be(drawn):
    _, (outer, other) = drawn
    box = outer.intersect(other)
    if box is not None:
        first, last = box.span_in(outer)
        places = numbers(outer.shape)[box.within(outer)]
        assert (first, last) == (places.min(), places.max() + 1)


@SETTINGS
@given(boxes())
def test_strides_are_those_of_a_contiguous_tensor(drawn):
    _, (box,) = drawn
    if box.elements:
        assert box.strides == torch.empty(box.shape).stride()


def test_a_box_without_dimensions_holds_one_element():
    box = Box.whole(())
    assert box.elements == 1
    assert box.intersect(Box((), ())) == box
    assert box.within(box) == ()
    assert box.span_in(box) == (0, 1)


def test_boxes_that_only_touch_have_nothing_in_common():
    assert Box((0, 0), (2, 3)).intersect(Box((2, 0), (1, 3))) is None
    assert Box((1,), (0,)).intersect(Box((0,), (4,))) is None


def test_a_tensor_that_is_not_divided_is_a_whole_fragment():
    tensor = torch.zeros(3, 2)
    fragment = Fragment.whole(tensor)
    assert fragment.values is tensor
    assert (fragment.box, fragment.shape) == (Box((0, 0), (3, 2)), (3, 2))
    assert fragment.is_whole


def test_a_part_is_not_whole_though_it_has_all_dimensions():
    assert not Fragment(torch.zeros(1, 2), Box((2, 0), (1, 2)), (3, 2)).is_whole
    assert not Fragment(torch.zeros(0, 2), Box((3, 0), (0, 2)), (3, 2)).is_whole
