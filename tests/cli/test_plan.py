import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from codistill.cli import main
from codistill.planner import Job, Link, Model, plan

PAGE = Path(__file__).parents[2] / "docs" / "cost.md"
SMALL = ("--params", "1e6", "--batch-per-peer", "32", "--outputs", "1000")


def planned(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def scheme(document, name):
    return next(scheme for scheme in document["schemes"] if scheme["scheme"] == name)


def test_the_worked_example_of_the_page_is_what_the_command_prints(capsys):
    (block,) = re.findall(r"```console\n\$ (.*?)\n```", PAGE.read_text(), re.DOTALL)
    command = re.match(r"(?:.*\\\n)*.*", block)[0]
    name, *words = shlex.split(command.replace("\\\n", ""))
    assert (name, main(words)) == ("codistill", 0)
    # The page is ASCII, and the lines of tables are not.
    printed = [line.rstrip() for line in capsys.readouterr().out.replace("\u2500", "-").splitlines()]
    assert block.removeprefix(command).strip("\n").splitlines() == printed


def test_numbers_that_the_page_computes_by_hand_are_those_of_the_plan():
    job = Job(
        model=Model(parameters=25_600_000),
        peers=2,
        ranks_per_peer=8,
        batch_per_peer=256,
        outputs=1000,
        interval_steps=2500,
        step_s=0.25,
    )
    costs = plan(job, Link.parse("1Gbit")).costs
    assert costs["all_reduce"].inside_bytes == 179.2e6
    assert round(costs["all_reduce"].between.sent_bytes / 1e6) == 109
    assert round(costs["checkpoint/exact"].between.sent_bytes / 1e3) == 44
    assert "109 MB with the headers" in PAGE.read_text()
    assert "44 kB on the wire" in PAGE.read_text()


def test_the_program_of_the_page_runs():
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(program, names)
    # 20 MB at the 11.4 MB/s that were measured.
    assert names["seconds"] == pytest.approx(1.85, rel=0.02)


def test_what_is_printed_as_json_is_the_plan(capsys):
    document = planned(
        capsys, *SMALL, "--peers", "3", "--link", "100Mbit/s", "--latency-s", "0.01", "--step-s", "0.5"
    )
    job = Job(model=Model(parameters=1_000_000), peers=3, batch_per_peer=32, outputs=1000, step_s=0.5)
    expected = plan(job, Link.parse("100Mbit", latency_s=0.01))
    assert [scheme["scheme"] for scheme in document["schemes"]] == list(expected.costs)
    for name, cost in expected.costs.items():
        shown = scheme(document, name)
        assert shown["between"]["sent_bytes"] == cost.between.sent_bytes
        assert shown["link_s"] == cost.link_s
        assert shown["memory"]["device_bytes"] == cost.memory.device_bytes
        assert {name: t["seconds"] for name, t in shown["transfers"].items()} == {
            name: transfer.seconds for name, transfer in cost.transfers.items()
        }
    assert document["break_even_interval_steps"] == expected.break_even_interval_steps
    assert document["advice"]["scheme"] in expected.costs
    assert document["slow_link"].startswith("Codistillation cuts the slow link, not the total")
    assert document["guesses"]


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("--ranks-per-peer", "4"), "ranks_per_peer", 4),
        (("--positions", "7"), "positions", 7),
        (("--logits-dtype", "bfloat16"), "logits_dtype", "bfloat16"),
        (("--optimizer", "sgd"), "optimizer", "sgd"),
        (("--sharded",), "is_sharded", True),
        (("--interval-steps", "9"), "interval_steps", 9),
        (("--topology", "all"), "topology", "all"),
        (("--topology", "ring"), "topology", "ring"),
        (("--top-k", "32"), "top_k", {"k": 32, "sampled": 8}),
        (("--top-k", "32", "--sampled", "4"), "top_k", {"k": 32, "sampled": 4}),
        (("--outer-steps", "100"), "outer_steps", 100),
        (("--step-s", "0.25"), "step_s", 0.25),
    ],
)
def test_every_option_reaches_the_job(capsys, words, field, value):
    assert planned(capsys, *SMALL, *words)["job"][field] == value


def test_weights_of_another_dtype_are_planned_for(capsys):
    model = planned(capsys, *SMALL, "--weight-dtype", "bfloat16")["job"]["model"]
    assert (model["parameters"], model["weight_dtype"]) == (1_000_000, "bfloat16")


def test_a_recipe_is_counted(capsys):
    document = planned(capsys, "digits")
    job = document["job"]
    # A perceptron 64-128-128-10, and half of 64 samples for each of two peers.
    assert job["model"]["parameters"] == 26_122
    assert (job["peers"], job["batch_per_peer"], job["outputs"], job["interval_steps"]) == (2, 32, 10, 10)
    assert (job["optimizer"], job["topology"], job["top_k"]) == ("sgd_momentum", "all", None)
    assert not any("guess by the number of parameters" in guess for guess in document["guesses"])


def test_options_replace_what_a_recipe_says(capsys):
    job = planned(capsys, "digits", "--params", "5e6", "--outputs", "100", "--interval-steps", "7")["job"]
    assert job["model"]["parameters"] == 5_000_000
    assert (job["outputs"], job["interval_steps"], job["peers"]) == (100, 7, 2)
    assert job["top_k"] == {"k": 64, "sampled": 16}


def test_counting_a_recipe_leaves_torch_s_random_numbers_alone(capsys):
    before = torch.random.get_rng_state()
    planned(capsys, "digits")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_table_says_that_it_cuts_the_slow_link_only_and_what_it_advises(capsys):
    assert main(["plan", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "Codistillation cuts the slow link, not the total" in out
    assert "\nAdvice: checkpoint/exact, every 50 steps.\n- " in out
    assert "\nGuessed or left out:\n- " in out
    for name in plan(Job(model=Model(parameters=1), peers=2, batch_per_peer=1, outputs=100)).costs:
        assert f" {name} " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--params", "1e6"), "--batch-per-peer must be given, got nothing."),
        (("--outputs", "10"), "--params must be given, got nothing."),
        ((*SMALL, "--link", "fast"), "--link must be a number > 0 and a unit, got 'fast'."),
        ((*SMALL, "--latency-s", "1"), "--latency-s must come with --link, got 1.0."),
        ((*SMALL, "--sampled", "1"), "--sampled must come with --top-k, got 1."),
        ((*SMALL, "--top-k", "1001"), "top_k must have k <= 1000, the number of outputs, got 1001."),
        ((*SMALL, "--peers", "1"), "peers must be >= 2, got 1."),
        ((*SMALL, "--weight-dtype", "int4"), "weight_dtype must be one of"),
        (("--params", "many", *SMALL[2:]), "--params must be a whole number >= 1, got 'many'."),
        (("imagenet",), "recipe must be one of the"),
    ],
)
def test_words_that_make_no_job_are_wrong_usage(capsys, words, message):
    assert main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"codistill: {message}")
