import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import codistill
from codistill.errors import RecipeError
from codistill.lab import recipe as recipes
from codistill.lab.recipe import Recipe


def test_a_recipe_survives_json(tiny: Recipe) -> None:
    changed = replace(tiny, learning_rate_drops=(0.25, 0.5), checkpoint_every=7, regime="disjoint", parts=4)
    document = json.loads(json.dumps(recipes.to_document(changed)))
    assert recipes.from_document(document, where="here") == changed


def test_peers_may_differ_in_learning_rate_and_width(tiny: Recipe) -> None:
    assert [(tiny.learning_rate_of(peer), tiny.width_of(peer)) for peer in "ab"] == [(0.1, None)] * 2
    apart = replace(tiny, peer_learning_rates=(0.1, 0.01), peer_widths=(128, 8))
    assert [(apart.learning_rate_of(peer), apart.width_of(peer)) for peer in "ab"] == [(0.1, 128), (0.01, 8)]


def test_who_teaches_whom_may_be_said_edge_by_edge(tiny: Recipe) -> None:
    assert tiny.teacher_pairs() == ()
    star = replace(tiny, peers=3, topology="directed", edges=("a:b", "a:c"))
    assert star.teacher_pairs() == (("a", "b"), ("a", "c"))
    document = json.loads(json.dumps(recipes.to_document(star)))
    assert recipes.from_document(document, where="here") == star


def test_a_recipe_of_before_peers_had_ranks_or_edges_is_still_read(tiny: Recipe) -> None:
    document = recipes.to_document(tiny)
    del document["ranks_per_peer"], document["edges"]
    assert recipes.from_document(document, where="here") == tiny


def test_the_label_is_the_arm_or_else_the_method(tiny: Recipe) -> None:
    assert tiny.label == "codistillation"
    assert replace(tiny, method="alone").label == "alone"
    assert replace(tiny, arm="mine").label == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "chess"}, "task must be one of 'adult', 'cifar10', 'criteo'"),
        ({"method": "magic"}, "method must be one of 'all_reduce', 'alone', 'codistillation'"),
        ({"topology": "star"}, "topology must be one of 'all', 'ring', 'directed', got 'star'"),
        ({"edges": ("a:b",)}, "edges must be left out unless topology is 'directed', got ('a:b',)"),
        ({"topology": "directed"}, "edges must name at least one teacher:student"),
        *(
            ({"topology": "directed", "edges": (edge,)}, "edges must join two different peers of a, b, such")
            for edge in ("a:c", "c:a", "a:a", "ab", "a", "", "a:b:a")
        ),
        ({"regime": "half"}, "regime must be one of 'all_data', 'disjoint', 'same_batches', got 'half'"),
        ({"combine": "votes"}, "combine must be one of 'losses', 'probabilities', 'logits', got 'votes'"),
        ({"arm": "../up"}, "arm must be made of letters"),
        ({"peers": 0}, "peers must be from 1 to 26, got 0"),
        ({"peers": 27}, "peers must be from 1 to 26, got 27"),
        ({"ranks": 0}, "ranks must be >= 1, got 0"),
        ({"ranks_per_peer": 0}, "ranks_per_peer must be >= 1, got 0"),
        ({"updates": 0}, "updates must be >= 1, got 0"),
        ({"interval_steps": 0}, "interval_steps must be >= 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be >= 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"burn_in_steps": -1}, "burn_in_steps must be >= 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0 and finite, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0 and finite, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0 and finite, got -1.0"),
        ({"distillation_weight": float("inf")}, "distillation_weight must be >= 0 and finite, got inf"),
        ({"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
        ({"momentum": 1.0}, "momentum must be >= 0 and < 1, got 1.0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be >= 0 and < 1, got 1.5"),
        ({"learning_rate_drops": (0.5, 0.5)}, "learning_rate_drops must rise strictly between 0 and 1"),
        ({"learning_rate_drops": (0.0,)}, "learning_rate_drops must rise strictly between 0 and 1"),
        ({"peer_widths": (8,)}, "peer_widths must have one value for each of 2 peers, got (8,)"),
        ({"peer_widths": (8, 0)}, "peer_widths must be > 0 and finite, got (8, 0)"),
        (
            {"peer_learning_rates": (0.1, 0.0)},
            "peer_learning_rates must be > 0 and finite, got (0.1, 0.0)",
        ),
        ({"parts": 2}, 'parts must be left out unless regime is "disjoint", got 2'),
        ({"regime": "disjoint", "parts": 0}, "parts must be >= 1, got 0"),
    ],
)
def test_a_bad_field_is_named_with_its_value(tiny: Recipe, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        replace(tiny, **changes)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "recipe 'tiny'" in str(caught.value)


@pytest.mark.parametrize("name", ["../../x", "", "a/b", ".."])
def test_a_name_that_would_lead_out_of_its_folder_is_refused(tiny: Recipe, name: str) -> None:
    with pytest.raises(RecipeError, match="name must be made of letters"):
        replace(tiny, name=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": "many"}, "here: updates must be of type int, got 'many'"),
        ({"updates": True}, "here: updates must be of type int, got True"),
        ({"lockstep": 1}, "here: lockstep must be of type bool, got 1"),
        ({"learning_rate_drops": ["early"]}, "here: learning_rate_drops must be of type float, got 'early'"),
        ({"gpus": 8}, "here must hold fields of Recipe only, got 'gpus'"),
    ],
)
def test_a_bad_document_is_refused_with_file_and_field(
    tiny: Recipe, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.from_document(recipes.to_document(tiny) | changes, where="here")
    assert message in str(caught.value)


def test_a_document_without_a_needed_field_is_refused(tiny: Recipe) -> None:
    document = recipes.to_document(tiny)
    del document["task"]
    with pytest.raises(RecipeError, match="here must hold 'task'"):
        recipes.from_document(document, where="here")


def test_every_field_is_explained() -> None:
    source = Path(recipes.__file__).read_text()
    for field in dataclasses.fields(Recipe):
        _, _, after = source.partition(f"\n    {field.name}: ")
        assert after.split("\n")[1].strip().startswith('"""'), field.name


def test_recipes_are_read_without_loading_torch() -> None:
    program = (
        "import sys, types\n"
        "root = types.ModuleType('codistill')\n"  # the root's own imports are not the question
        f"root.__path__ = [{str(Path(codistill.__file__).parent)!r}]\n"
        "sys.modules['codistill'] = root\n"
        "import codistill.lab.recipes.demo, codistill.lab.recipes\n"
        "assert codistill.lab.recipes.names()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
