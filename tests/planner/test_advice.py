import pytest

from codistill.planner import Link, Model, advise, guesses, plan, slow_link
from codistill.topologies import Star


def advice_of(job, rate=None):
    return advise(plan(job, None if rate is None else Link.parse(rate)))


def test_a_link_that_carries_an_all_reduce_needs_no_relief(small):
    advice = advice_of(small(step_s=1.0), "1Gbit")
    assert (advice.scheme, advice.interval_steps) == ("all_reduce", None)
    assert "3.42% of a step" in advice.reasons[0]
    assert "needs no relief" in advice.reasons[1]


def test_above_the_break_even_interval_snapshots_are_chosen(small):
    advice = advice_of(small(step_s=0.2, batch_per_peer=64, interval_steps=500), "50Mbit")
    assert (advice.scheme, advice.interval_steps) == ("checkpoint/exact", 500)
    assert advice.reasons[1:3] == (
        "prediction/exact would keep training waiting for 22.0% of a step.",
        "prediction/bfloat16 would keep training waiting for 11.1% of a step.",
    )
    assert advice.reasons[3].startswith(
        "checkpoint/exact and prediction/top_k break even at an interval of 137"
    )
    assert "1 teacher forward a step, about 33.3% of a step" in advice.reasons[-1]


def test_below_it_predictions_are_chosen_and_what_they_need_is_said(small):
    advice = advice_of(small(step_s=0.2, batch_per_peer=4, interval_steps=50), "50Mbit")
    assert (advice.scheme, advice.interval_steps) == ("prediction/exact", None)
    assert "same batches" in advice.reasons[-1]


def test_without_time_only_the_break_even_interval_decides(small):
    rarely, often = small(interval_steps=32), small(interval_steps=31)
    assert advice_of(rarely).scheme == "checkpoint/exact"
    assert advice_of(often).scheme == "prediction/exact"


def test_the_first_codec_that_keeps_up_is_taken_and_why_not_the_others_is_said(small):
    # 4 MB take 3.4 s, and an interval lasts 2 s.
    job = small(step_s=0.04, batch_per_peer=1024)
    advice = advice_of(job, "10Mbit")
    assert advice.scheme == "checkpoint/bfloat16"
    assert any(
        reason.startswith("checkpoint/exact takes 3.36 s for one snapshot, and an interval lasts 2.00 s")
        for reason in advice.reasons
    )
    assert any(reason.startswith("prediction/top_k would keep") for reason in advice.reasons)


def test_where_nothing_keeps_up_the_shortest_interval_that_would_is_named(small):
    job = small(step_s=0.001, batch_per_peer=1024)
    advice = advice_of(job, "10Mbit")
    assert advice.scheme == "checkpoint/int8"
    assert advice.interval_steps > 50
    longer = small(step_s=0.001, batch_per_peer=1024, interval_steps=advice.interval_steps)
    shorter = small(step_s=0.001, batch_per_peer=1024, interval_steps=advice.interval_steps - 1)
    assert advice_of(longer, "10Mbit").reasons[-1].startswith("It costs 1 teacher forward")
    assert "fits is" in advice_of(shorter, "10Mbit").reasons[-1]


def test_a_language_model_s_predictions_are_sent_as_top_k(small):
    job = small(
        outputs=50_257,
        positions=256,
        step_s=1.0,
        interval_steps=1,
        model=Model(parameters=100_000_000),
    )
    advice = advice_of(job, "2Gbit")
    assert advice.scheme == "prediction/top_k"
    assert [reason.split()[0] for reason in advice.reasons] == [
        *("An", "checkpoint/exact", "prediction/exact", "prediction/bfloat16", "checkpoint/bfloat16", "An"),
    ]


def test_that_it_cuts_the_slow_link_and_not_the_total_is_said(resnet_50, small):
    assert slow_link(plan(resnet_50())) == (
        "Codistillation cuts the slow link, not the total: between peers checkpoint/exact sends 2,497 times "
        "less than all_reduce; of all that a rank sends a step, 193 MB with all_reduce and 179 MB with "
        "checkpoint/exact, 7.07% is cut."
    )
    assert slow_link(plan(small())).endswith("nothing is sent inside a peer, as it is one rank.")
    assert "sends 1.00 times as much as all_reduce" in slow_link(plan(small(interval_steps=1)))
    sharded = slow_link(plan(small(ranks_per_peer=8, is_sharded=True)))
    assert "all that a rank sends a step grows from" in sharded


@pytest.mark.parametrize(
    ("fields", "rate", "guess"),
    [
        ({"model": Model(parameters=124_000_000)}, None, "a guess by the number of parameters"),
        ({}, None, "Without a link nothing is said"),
        ({}, "1Gbit", "Rounds are taken to have no latency"),
        ({"step_s": 1.0}, "1Gbit", "The store is taken to keep up"),
        ({}, "1Gbit", "Without the seconds of a step"),
        ({"peers": 3, "topology": Star("0")}, None, "different numbers of teachers"),
        ({"step_s": 0.01}, "1Mbit", "checkpoint/int8 does not keep up with an interval of 50 steps"),
        ({"ranks_per_peer": 2}, None, "in two levels"),
    ],
)
def test_what_is_guessed_is_said_and_only_where_it_is(small, fields, rate, guess):
    link = None if rate is None else Link.parse(rate)
    assert any(guess in sentence for sentence in guesses(plan(small(**fields), link)))
    fast = Link.parse("100Gbit", latency_s=1e-4)
    quiet = list(guesses(plan(small(step_s=10.0), fast)))
    assert not any(guess in sentence for sentence in quiet) or guess == "The store is taken to keep up"
