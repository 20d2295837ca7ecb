import pytest

from codistill.planner import Link, Model, plan
from codistill.topologies import Star

LINK = Link.parse("100Mbit")
SCHEMES = [
    "all_reduce",
    "checkpoint/exact",
    "checkpoint/bfloat16",
    "checkpoint/int8",
    "prediction/exact",
    "prediction/bfloat16",
    "prediction/top_k",
    "diloco",
]


def test_every_way_is_planned_for_and_top_k_only_where_it_is_smaller(small):
    assert list(plan(small()).costs) == SCHEMES
    assert list(plan(small(outputs=10)).costs) == [name for name in SCHEMES if name != "prediction/top_k"]


def test_resnet_50_is_the_papers_case(resnet_50):
    planned = plan(resnet_50())
    assert round(planned.break_even_interval_steps["checkpoint/exact"]["prediction/exact"]) == 100
    between, inside = planned.between_peers_bytes_per_step, planned.inside_peer_bytes_per_step
    assert inside["all_reduce"] == 179_200_000
    # Every 2500 steps: 2500 times less on the slow link, and 7% of the total.
    assert between["all_reduce"] / between["checkpoint/exact"] == pytest.approx(2500, rel=0.01)
    assert between["prediction/exact"] / between["checkpoint/exact"] == pytest.approx(25, rel=0.02)
    before, after = (
        planned.costs[name].rank_bytes(planned.job) for name in ("all_reduce", "checkpoint/exact")
    )
    assert before == pytest.approx(192.9e6, rel=1e-3)  # 192 MB and headers
    assert 1 - after / before == pytest.approx(0.07, abs=0.005)


def test_diloco_moves_two_models_an_average(small):
    # PAPERS: 2 P s_w / H, here both directions of two peers.
    averaged = plan(small(outer_steps=500)).between_peers_bytes_per_step["diloco"]
    assert averaged == pytest.approx(2 * 4e6 / 500, rel=0.07)


@pytest.mark.parametrize("peers", [2, 3, 8])
def test_of_predictions_everybody_gets_everybody_s(small, peers):
    swapped = plan(small(peers=peers)).costs["prediction/exact"].transfers["swap"]
    assert swapped.traffic.received_bytes == pytest.approx((peers - 1) * 32 * 1000 * 4, rel=0.09)
    assert (swapped.rounds, swapped.every_steps, swapped.seconds) == (2 * (peers - 1), 1, None)


def test_the_interval_divides_what_snapshots_cost(small):
    often, rarely = (plan(small(interval_steps=steps)).costs["checkpoint/exact"] for steps in (50, 500))
    assert often.between.total_bytes == pytest.approx(10 * rarely.between.total_bytes)
    assert often.transfers["publish"].traffic == rarely.transfers["publish"].traffic
    assert (often.age_steps, rarely.age_steps) == (50, 500)


def test_a_store_is_written_by_all_and_read_along_every_edge(small):
    for topology, edges in (("ring", 8), ("all", 56), (Star("0"), 14)):
        store = plan(small(peers=8, topology=topology)).costs["checkpoint/exact"].store
        assert store.sent_bytes == pytest.approx(8 * 4e6 / 50, rel=0.06)
        assert store.received_bytes == pytest.approx(edges * 4e6 / 50, rel=0.06)


def test_snapshots_travel_on_inside_a_peer_or_are_gathered_there_for_every_forward(small):
    whole, parts = small(ranks_per_peer=4), small(ranks_per_peer=4, is_sharded=True)
    gradients = 2 * 3 / 4 * 4e6
    assert plan(whole).costs["all_reduce"].inside_bytes == gradients
    assert plan(whole).costs["checkpoint/exact"].inside_bytes == pytest.approx(
        gradients + 3 / 4 * 4e6 / 50, rel=1e-4
    )
    assert plan(parts).costs["all_reduce"].inside_bytes == 1.5 * gradients
    assert plan(parts).costs["checkpoint/exact"].inside_bytes == 1.5 * gradients + 3 / 4 * 4e6
    assert plan(small()).costs["checkpoint/exact"].inside_bytes == 0


def test_without_a_link_nothing_is_said_about_time(small):
    for cost in plan(small(step_s=1.0)).costs.values():
        assert cost.link_s is None
        assert all(transfer.seconds is None for transfer in cost.transfers.values())


def test_seconds_are_bytes_over_the_link_and_a_latency_a_round(small):
    costs = plan(small(peers=3), Link.parse("100Mbit", latency_s=0.01)).costs
    reduced, fetched = (
        costs["all_reduce"].transfers["all_reduce"],
        costs["checkpoint/exact"].transfers["fetch"],
    )
    assert reduced.seconds == pytest.approx(4 * 0.01 + reduced.traffic.sent_bytes / 12.5e6)
    assert costs["diloco"].transfers["average"].seconds == reduced.seconds
    assert fetched.seconds == pytest.approx(0.01 + fetched.traffic.received_bytes / 12.5e6)
    swapped = costs["prediction/exact"]
    assert swapped.link_s == swapped.stall_s == swapped.transfers["swap"].seconds


def test_training_waits_for_copies_only_where_snapshots_are_exchanged(small):
    slow, fast = plan(small(), Link.parse("1Mbit")), plan(small(), Link.parse("100Gbit"))
    assert slow.costs["checkpoint/exact"].stall_s == fast.costs["checkpoint/exact"].stall_s < 1e-3
    assert slow.costs["all_reduce"].stall_s > 30


@pytest.mark.parametrize(
    ("step_s", "ranks", "age_steps"),
    [
        (1.0, 1, 51),  # a snapshot of 4 MB takes a third of a second
        (0.1, 1, 54),
        (0.1, 2, 60),  # ranks change teachers together, every ten steps
        (0.005, 1, 168),  # two intervals pass while one is read
    ],
)
def test_a_teacher_gets_as_old_as_an_interval_and_the_reading_of_its_successor(
    small, step_s, ranks, age_steps
):
    job = small(step_s=step_s, ranks_per_peer=ranks)
    assert plan(job, LINK).costs["checkpoint/exact"].age_steps == age_steps
    assert plan(job, LINK).costs["prediction/exact"].age_steps == 0
    assert plan(job, LINK).costs["all_reduce"].age_steps is None


@pytest.mark.parametrize(("topology", "forwards"), [("ring", 1), ("all", 3)])
def test_every_teacher_takes_a_forward_and_predictions_take_none(small, topology, forwards):
    costs = plan(small(peers=4, topology=topology)).costs
    assert costs["checkpoint/exact"].teacher_forwards == forwards
    assert costs["prediction/exact"].teacher_forwards == 0


def test_break_even_counts_the_teachers_of_snapshots_and_all_others_of_predictions(small):
    two, ring, everybody = (
        plan(job).break_even_interval_steps["checkpoint/exact"]["prediction/exact"]
        for job in (small(), small(peers=5), small(peers=5, topology="all"))
    )
    assert two == pytest.approx(4e6 / (32 * 1000 * 4), rel=0.001)
    assert everybody == pytest.approx(two)
    assert ring == pytest.approx(two / 4)


def test_an_interface_that_counts_large_frames_counts_fewer_headers(small):
    real, virtual = (plan(small(), Link(bytes_per_s=1e6, frame_bytes=size)) for size in (1514, 65_536))
    for scheme in SCHEMES:
        ratio = real.between_peers_bytes_per_step[scheme] / virtual.between_peers_bytes_per_step[scheme]
        assert 1.05 < ratio < 1.07, scheme


def test_half_precision_halves_all_that_is_made_of_weights(small):
    half = small(model=Model(parameters=1_000_000, weight_dtype="bfloat16", tensors=10))
    for scheme in ("all_reduce", "checkpoint/exact", "diloco"):
        ratio = (
            plan(small()).between_peers_bytes_per_step[scheme]
            / plan(half).between_peers_bytes_per_step[scheme]
        )
        assert ratio == pytest.approx(2, rel=0.02), scheme


@pytest.mark.parametrize("arguments", [("job",), (None,)])
def test_what_is_no_job_is_refused(arguments):
    with pytest.raises(TypeError, match=r"^job must be Job\(\.\.\.\), got"):
        plan(*arguments)


def test_what_is_no_link_is_refused(small):
    with pytest.raises(TypeError, match=r"^link must be Link\(\.\.\.\), got '10Gbit'"):
        plan(small(), "10Gbit")
