"""What is public stays: a change here is a change for users, and wants a line in the changelog."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import codistill

PUBLIC = {
    "codistill": [
        "CheckpointExchange",
        "CodistillError",
        "CodistillWarning",
        "Codistiller",
        "Divergence",
        "Lockstep",
        "Membership",
        "PartitionedSampler",
        "PeerPrediction",
        "PredictionExchange",
        "Predictions",
        "ServedExchange",
        "SnapshotInfo",
        "SnapshotOptions",
        "StepReport",
        "TeacherInfo",
        "TeacherOptions",
        "TopK",
        "__version__",
        "errors",
        "load_snapshot",
        "losses",
        "metrics",
        "mutual_losses",
        "schedules",
        "stores",
        "topologies",
    ],
    "codistill.losses": [
        "DenseTarget",
        "Divergence",
        "SparseTarget",
        "Target",
        "as_divergence",
        "bernoulli_kl",
        "distillation_term",
        "jensen_shannon",
        "kl_divergence",
        "logit_mse",
        "reverse_kl_divergence",
        "sample_top_k",
        "soft_cross_entropy",
        "symmetric_kl_divergence",
        "validate_combine",
        "validate_sparse",
    ],
    "codistill.stores": ["DirectoryStore", "MemoryStore", "Store", "open_store"],
    "codistill.snapshots": ["SnapshotInfo"],
    "codistill.testing": [
        "ExchangeContract",
        "FakeClock",
        "Faults",
        "FaultyStore",
        "InlineBackground",
        "StoreContract",
        "check_divergence",
        "connect_peers",
        "run_peers",
    ],
    "codistill.planner": [
        "Advice",
        "Cost",
        "Job",
        "Link",
        "Measurement",
        "Memory",
        "Model",
        "Plan",
        "Traffic",
        "Transfer",
        "advise",
        "all_reduce_bytes",
        "break_even_interval_steps",
        "calibrate",
        "guesses",
        "plan",
        "slow_link",
        "snapshot_bytes",
    ],
    "codistill.exchange": [
        "Exchange",
        "ExchangeCounters",
        "PeerPrediction",
        "Predictions",
        "Progress",
        "TeacherInfo",
        "TeacherOptions",
    ],
    "codistill.server": ["Answering", "Limits", "Listening", "PredictionServer"],
    "codistill.exchange.checkpoint": [
        "CheckpointExchange",
        "Lockstep",
        "Membership",
        "SnapshotOptions",
        "load_snapshot",
    ],
}

# Modules without __all__: what they define themselves.
DEFINED = {
    "codistill.errors": "AdviceWarning CodistillError CodistillWarning DataMissingError ExchangeTimeout "
    "ExtraMissingError JobError KeyMissingError PeerMismatchError PeerMissingError "
    "PeerTakenError RecipeError RunExistsError SnapshotError SnapshotFormatError "
    "SnapshotIntegrityError SnapshotMismatchError StoreError",
    "codistill.metrics": "agreement churn distance_from_initialisation mean_absolute_difference",
    "codistill.schedules": "AtDrops BurnIn Constant Cosine Exponential Linear apply as_schedule",
    "codistill.topologies": "All Directed KRegular Ring Star Topology as_topology",
}

SIGNATURES = {
    "Codistiller": "model exchange * distillation_loss weight burn_in_steps combine outputs_to_logits group",
    "Codistiller.loss": "self logits inputs * mask denominator",
    "Codistiller.predict": "self inputs * logits",
    "Codistiller.step": "self * task_loss samples optimizer",
    "Codistiller.close": "self * publish timeout_s",
    "CheckpointExchange": "store * peer peers interval_steps topology lockstep snapshots teachers membership",
    "SnapshotOptions": "* codec keep publish_from signing_key_file metadata max_bytes",
    "TeacherOptions": "* build dtype device every max_teachers",
    "Membership": "* max_age_steps when_stale start_with_peers start_timeout_s rejoin",
    "Lockstep": "timeout_s",
    "Divergence": "name_or_function * temperature class_dim acts_on",
    "PredictionExchange": "group * codec",
    "ServedExchange": "url * peer peers codec publishing token_file ca_file timeout_s max_age_steps",
    "TopK": "k * sampled",
    "PartitionedSampler": "dataset_or_size * peer peers regime seed rank world_size labels alpha",
    "losses.bernoulli_kl": "student_logits teacher_logits * temperature",
    "losses.jensen_shannon": "student_logits teacher_logits * temperature class_dim",
    "losses.kl_divergence": "student_logits teacher_logits * temperature class_dim",
    "losses.logit_mse": "student_logits teacher_logits * centred class_dim",
    "losses.reverse_kl_divergence": "student_logits teacher_logits * temperature class_dim",
    "losses.sample_top_k": "logits * k sampled temperature class_dim generator",
    "losses.soft_cross_entropy": "student_logits teacher_logits * temperature class_dim",
    "losses.symmetric_kl_divergence": "student_logits teacher_logits * temperature class_dim",
    "mutual_losses": "list_of_logits * distillation_loss combine mask denominator",
    "load_snapshot": "store peer",
    "schedules.apply": "optimizer * step lr weight_decay",
}


def parameters(name: str) -> str:
    value = codistill
    for part in name.split("."):
        value = getattr(value, part)
    words = []
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(parameter.name)
    return " ".join(words)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_frozen_and_there(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__all__ == PUBLIC[module]
    assert loaded.__all__ == sorted(loaded.__all__)
    for name in loaded.__all__:
        assert hasattr(loaded, name)


@pytest.mark.parametrize("module", DEFINED)
def test_names_of_modules_without_a_list_are_frozen(module: str) -> None:
    loaded = importlib.import_module(module)
    own = [
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    ]
    assert " ".join(sorted(own)) == DEFINED[module]


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_signatures_are_frozen(name: str) -> None:
    assert parameters(name) == SIGNATURES[name]


def test_public_functions_and_classes_say_what_they_are() -> None:
    for module in PUBLIC:
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            value = getattr(loaded, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert inspect.getdoc(value), f"{module}.{name} has no docstring"


def test_the_root_finds_names_where_type_checkers_are_told_they_are() -> None:
    tree = ast.parse(Path(codistill.__file__).read_text())
    told = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*told, "__version__"]) == codistill.__all__
    for name, module in told.items():
        if module == "codistill":
            assert getattr(codistill, name) is importlib.import_module(f"codistill.{name}")
            assert name in codistill._MODULES
        else:
            assert getattr(codistill, name) is getattr(importlib.import_module(module), name)
            assert codistill._HOMES[name] == module.removeprefix("codistill.")
    assert {*codistill._HOMES, *codistill._MODULES} == set(told)


def test_dir_of_the_root_lists_what_has_not_been_used_yet() -> None:
    assert set(codistill.__all__) <= set(dir(codistill))


def test_a_name_that_the_root_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'codistill' has no attribute 'Codistiler'"):
        codistill.Codistiler  # noqa: B018 - the look-up is what is tested
    with pytest.raises(ImportError, match="cannot import name 'Codistiler' from 'codistill'"):
        from codistill import Codistiler  # noqa: F401


@pytest.mark.spawn
def test_import_has_no_side_effect_and_needs_no_extra() -> None:
    program = """
import logging, os, sys, random
import torch
before = dict(os.environ), torch.random.get_rng_state(), random.getstate(), list(logging.root.handlers)
extras = ("starlette", "uvicorn", "urllib3", "tyro", "rich")
extras += ("sklearn", "matplotlib", "jinja2", "PIL", "scipy")
for extra in extras:
    sys.modules[extra] = None
from codistill import *
assert dict(os.environ) == before[0]
assert torch.equal(torch.random.get_rng_state(), before[1])
assert random.getstate() == before[2]
assert list(logging.root.handlers) == before[3]
assert not torch.distributed.is_initialized()
assert "codistill.lab" not in sys.modules and "codistill.cli" not in sys.modules
print("clean")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "clean", done.stderr
