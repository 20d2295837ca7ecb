from codistill.snapshots.fingerprint import describe_difference, fingerprint

SHAPES = {"a.weight": (2, 3), "a.bias": (2,), "count": ()}


def test_it_depends_on_names_and_shapes_only():
    shuffled = {"count": [], "a.bias": [2], "a.weight": [2, 3]}
    assert fingerprint(SHAPES) == fingerprint(shuffled)
    assert len(fingerprint(SHAPES)) == 64
    others = [{**SHAPES, "count": (1,)}, {"b": (2, 3)}, {**SHAPES, "a.weight": (3, 2)}, {}]
    assert len({fingerprint(shapes) for shapes in [SHAPES, *others]}) == 5


def test_it_never_changes():
    # Peers with different versions of codistill compare it: SHA-256 of '[["a", [2, 3]]]'.
    expected = "6f2017d61feb35f2cf9785c915db57f9b70356e25c155bfc6209e85884663b24"
    assert fingerprint({"a": (2, 3)}) == expected


def test_equal_shapes_have_no_difference():
    assert describe_difference(SHAPES, {name: list(shape) for name, shape in SHAPES.items()}) is None


def test_the_first_difference_is_told_and_the_others_counted():
    here = {**SHAPES, "head.weight": (100, 512)}
    assert describe_difference({**SHAPES, "head.weight": (10, 512)}, here) == (
        "'head.weight' is [10, 512] there and [100, 512] here"
    )
    assert describe_difference(SHAPES, here) == "'head.weight' is missing there"
    assert describe_difference(here, SHAPES) == "'head.weight' is unknown here"
    assert describe_difference({}, {"b": (), "a": ()}) == "'a' is missing there, and 1 more difference"
    assert describe_difference({"b": (), "a": ()}, {"c": (), "d": ()}) == (
        "'a' is unknown here, and 3 more differences"
    )
