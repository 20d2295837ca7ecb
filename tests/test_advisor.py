import json

import pytest
import torch

from codistill.advisor import LOOKS, Advisor, Evidence, largest
from codistill.exchange.base import TeacherInfo
from codistill.snapshots.document import Fields


def teacher(**changes):
    fields = {
        "peer": "b",
        "incarnation": 0,
        "sequence": 0,
        "step": 0,
        "samples": 0,
        "age_steps": 10,
        "task_loss": 1.0,
        "metadata": {},
    }
    return TeacherInfo(**{**fields, **changes})


def evidence(**changes):
    """What there is to see of a training that is well."""
    fields = {
        "step": 20,
        "task_loss": 1.0,
        "weighted_term": 0.2,
        "agreement": {"b": 0.8},
        "teachers": {"b": teacher()},
        "interval_steps": 50,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
    }
    return Evidence(**{**fields, **changes})


def said(*looks):
    advisor = Advisor()
    return [sentence for look in looks for sentence in advisor.look(look)]


def test_nothing_is_said_of_a_training_that_is_well():
    assert said(*[evidence()] * 50) == []


def test_nothing_is_said_of_a_training_of_which_little_is_known():
    unknown = evidence(
        task_loss=None,
        weighted_term=None,
        agreement={},
        teachers={},
        interval_steps=None,
        learning_rate=None,
        weight_decay=None,
    )
    assert said(*[unknown] * 50) == []


@pytest.mark.parametrize(
    ("changes", "what", "setting"),
    [
        (
            {"agreement": {"b": 0.999, "c": 0.985}, "task_loss": None},
            "same class at 99.2% of the positions",
            "PartitionedSampler",
        ),
        ({"weighted_term": 1.5}, "(1.5) is above the task loss (1;", "burn_in_steps"),
        ({"teachers": {"b": teacher(age_steps=500)}}, "'b' is 500 steps old, 10 intervals", "interval_steps"),
    ],
)
def test_what_does_not_help_is_said_once_with_the_setting_to_change(changes, what, setting):
    (sentence,) = said(*[evidence(**changes)] * 30)
    assert what in sentence
    assert setting in sentence


def test_models_that_agree_since_they_have_learnt_nothing_are_left_alone():
    assert said(*[evidence(agreement={"b": 1.0})] * 30) == []
    learnt = evidence(agreement={"b": 1.0}, task_loss=0.5)
    assert len(said(*[evidence(agreement={"b": 1.0})] * LOOKS, *[learnt] * LOOKS)) == 1


def test_a_few_looks_say_nothing_of_agreement_and_weight():
    assert said(*[evidence(agreement={"b": 1.0}, weighted_term=9.0)] * (LOOKS - 1)) == []


def test_a_term_above_a_task_loss_that_has_fallen_is_fine():
    assert said(*[evidence()] * LOOKS, *[evidence(task_loss=0.1)] * 30) == []


@pytest.mark.parametrize(
    "old", [teacher(age_steps=9_000, is_finished=True), teacher(age_steps=900, share=0.5)]
)
def test_a_finished_teacher_does_not_age_and_a_fading_one_is_known(old):
    assert said(*[evidence(teachers={"b": old})] * 30) == []


def test_predictions_that_are_swapped_have_no_age():
    assert said(*[evidence(interval_steps=None, teachers={"b": teacher(age_steps=900)})] * 30) == []


def snapshots(*losses):
    return [
        evidence(teachers={"b": teacher(sequence=number, task_loss=loss)})
        for number, loss in enumerate(losses)
        for _ in range(2)
    ]


def test_a_much_weaker_teacher_is_named_at_its_third_snapshot():
    (sentence,) = said(*[evidence()] * LOOKS, *snapshots(1.0, 1.8, 1.7, 1.6, 1.9))
    assert "Peer 'b' is much weaker than its student" in sentence
    assert "1.6 against 1 now" in sentence
    assert "topology=Directed" in sentence


@pytest.mark.parametrize("losses", [(1.0, 1.8, 1.7, 1.4, 1.9, 1.9), (1.0, 0.2, 0.2, 0.2), (None,) * 5])
def test_other_teachers_are_no_weaker(losses):
    assert said(*[evidence()] * LOOKS, *snapshots(*losses)) == []


def test_a_weight_decay_that_was_not_lowered_with_the_learning_rate_is_named():
    (sentence,) = said(*[evidence()] * 5, *[evidence(learning_rate=0.01)] * LOOKS)
    assert "lowered from 0.1 to 0.01 and the weight decay is still 0.0001" in sentence
    assert "schedules.apply" in sentence


@pytest.mark.parametrize(
    "later",
    [
        {"learning_rate": 0.05},
        {"learning_rate": 0.01, "weight_decay": 1e-5},
        {"learning_rate": 0.01, "teachers": {}},
    ],
)
def test_other_courses_of_weight_decay_are_fine(later):
    assert said(*[evidence()] * 5, *[evidence(**later)] * 30) == []


def test_no_weight_decay_need_not_be_lowered():
    assert said(evidence(weight_decay=0.0), *[evidence(weight_decay=0.0, learning_rate=0.001)] * 30) == []


def test_the_warning_names_its_step_and_advice_is_what_holds_at_the_last_look():
    advisor = Advisor()
    looks = [evidence(weighted_term=2.0, step=step) for step in range(LOOKS)]
    given = [sentence for look in looks for sentence in advisor.look(look)]
    (held,) = advisor.advice
    assert given == [f"At step {LOOKS - 1}: {held}"]
    assert "(2) is above the task loss" in held
    # The numbers are those of the last look.
    for _ in range(LOOKS):
        assert advisor.look(evidence(weighted_term=3.0)) == ()
    assert "(3) is above the task loss" in advisor.advice[0]
    for _ in range(LOOKS):
        advisor.look(evidence())
    assert advisor.advice == ()
    for _ in range(LOOKS):
        assert advisor.look(evidence(weighted_term=2.0)) == ()
    assert advisor.advice == (held,)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"teachers": {"b": teacher(age_steps=500)}}, {"teachers": {"b": teacher(age_steps=10)}}),
        ({"learning_rate": 0.01}, {"learning_rate": 0.01, "weight_decay": 1e-5}),
    ],
)
def test_advice_holds_as_long_as_what_it_is_about(wrong, right):
    advisor = Advisor()
    for changes in ({}, *[wrong] * 3 * LOOKS):
        advisor.look(evidence(**changes))
    assert len(advisor.advice) == 1
    advisor.look(evidence(**right))
    assert advisor.advice == ()


def test_without_a_teacher_that_counts_nothing_holds_of_those_of_before():
    advisor = Advisor()
    agreeing = evidence(agreement={"b": 1.0}, task_loss=None)
    for _ in range(LOOKS):
        advisor.look(agreeing)
    assert len(advisor.advice) == 1
    advisor.look(evidence(agreement={}, weighted_term=None, teachers={"b": teacher(share=0.0)}))
    assert advisor.advice == ()


def test_a_much_weaker_teacher_is_named_until_it_is_so_no_more():
    advisor = Advisor()
    for look in [evidence()] * LOOKS + snapshots(1.0, 1.8, 1.7, 1.6):
        advisor.look(look)
    assert len(advisor.advice) == 1
    advisor.look(evidence(teachers={"b": teacher(sequence=9, task_loss=1.1)}))
    assert advisor.advice == ()


def test_what_an_earlier_life_has_said_is_not_said_again():
    advisor = Advisor()
    for _ in range(LOOKS):
        advisor.look(evidence(agreement={"b": 1.0}, task_loss=None))
    resumed = Advisor.from_fields(Fields(json.loads(json.dumps(advisor.state_dict())), "advice"))
    again = evidence(agreement={"b": 1.0}, task_loss=None)
    assert [resumed.look(again) for _ in range(LOOKS)] == [()] * LOOKS
    assert resumed.advice == advisor.advice != ()


def test_a_life_that_follows_knows_the_first_task_loss():
    advisor = Advisor()
    for _ in range(LOOKS):
        advisor.look(evidence())
    resumed = Advisor.from_fields(Fields(json.loads(json.dumps(advisor.state_dict())), "advice"))
    late = evidence(task_loss=0.1)
    assert [resumed.look(late) for _ in range(LOOKS)] == [()] * LOOKS


def test_a_state_without_the_first_task_loss_is_read():
    advisor = Advisor.from_fields(Fields({"said": {"weight": "Lower it."}}, "advice"))
    assert [advisor.look(evidence(weighted_term=2.0)) for _ in range(LOOKS)] == [()] * LOOKS
    assert len(advisor.advice) == 1


def test_a_state_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"advice.said\['age b'\] must be a string"):
        Advisor.from_fields(Fields({"said": {"age b": 7}}, "advice"))


def test_the_largest_option_over_all_groups_is_looked_at():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": parameters[:1], "weight_decay": 0.0},
        {"params": parameters[1:], "weight_decay": 0.1, "lr": 0.5},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.2)
    assert (largest(optimizer, "lr"), largest(optimizer, "weight_decay")) == (0.5, 0.1)
    assert largest(optimizer, "nothing") is None


def test_an_option_that_is_none_is_left_out():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    # As Adafactor of Transformers has it.
    optimizer.param_groups[0]["lr"] = None
    assert largest(optimizer, "lr") is None
