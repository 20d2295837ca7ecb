"""The case table and the formulas of the papers, and what travels beside the weights."""

import pytest

from codistill.exchange.checkpoint.lives import HEARTBEAT_S
from codistill.exchange.prediction.codec import TopK
from codistill.planner import Model, Traffic, all_reduce_bytes, break_even_interval_steps
from codistill.planner.traffic import (
    NOTHING,
    fetch,
    heartbeat,
    prediction_bytes,
    prediction_codecs,
    publish,
    swap,
)

FRAME = 1514


def test_sodhani_s_own_setting_sends_192_against_179_megabytes_and_41_kilobytes():
    weights = 25_600_000 * 4
    assert all_reduce_bytes(weights, 16) == 192_000_000
    assert all_reduce_bytes(weights, 8) == 179_200_000
    assert weights / 2500 == 40_960
    # In two levels a rank sends as much: inside its group of 8, and its share of what the groups exchange.
    assert all_reduce_bytes(weights, 8) + all_reduce_bytes(weights, 2) / 8 == 192_000_000


# Parameters, and bytes of the predictions of one step, of four bytes a weight and a logit.
CASES = {
    "ResNet-50, a replica of 256 images": (25.6e6, 256 * 1000 * 4, 100),
    "ResNet-50, a GPU of 32 images": (25.557e6, 32 * 1000 * 4, 799),
    "BERT-large, 256 x 20 masked positions": (340e6, 256 * 20 * 30_522 * 4, 2),
    "the same, top 64 of 6 bytes": (340e6, 256 * 20 * 64 * 6, 692),
    "GPT-2 small, 16k tokens, top 32 of 6 bytes": (124e6, 16_384 * 32 * 6, 158),
}


@pytest.mark.parametrize("case", CASES)
def test_the_break_even_interval_is_that_of_the_case_table(case):
    parameters, prediction_bytes_per_step, steps = CASES[case]
    assert round(break_even_interval_steps(parameters * 4, prediction_bytes_per_step)) == steps


def test_gpt_2_breaks_even_below_one_step_with_whole_predictions():
    assert break_even_interval_steps(124e6 * 4, 16_384 * 50_257 * 4) < 1


def test_eight_small_resnets_send_25_gigabytes_of_whole_predictions(small):
    job = small(peers=8, batch_per_peer=45_000, outputs=100, model=Model(parameters=470_000))
    (_, exact), *_ = prediction_codecs(job)
    to_one = 200 * prediction_bytes(job, exact)
    assert (to_one, 7 * to_one) == (3.6e9, 25.2e9)
    assert job.model.weight_bytes == pytest.approx(1.9e6, rel=0.02)


def test_top_k_takes_ids_the_exact_probabilities_the_rest_and_the_entropy(small):
    job = small(batch_per_peer=256, positions=20, outputs=30_522, top_k=TopK(64, sampled=16))
    codecs = dict(prediction_codecs(job))
    assert prediction_bytes(job, codecs["top_k"]) == 256 * 20 * 4 * (64 + 48 + 2)
    assert prediction_bytes(job, codecs["bfloat16"]) == 256 * 20 * 30_522 * 2


@pytest.mark.parametrize(("size_bytes", "share"), [(7_400, 0.84), (15_000, 0.92)])
def test_a_swap_costs_more_than_what_is_swapped(small, size_bytes, share):
    # The shares are those of what an interface counted.
    swapped = swap(small(), size_bytes, FRAME)
    framed = Traffic(size_bytes, size_bytes).on_wire(FRAME).sent_bytes
    assert framed / swapped.sent_bytes == pytest.approx(share, abs=0.01)
    assert swapped.received_bytes == swapped.sent_bytes
    of_all = swap(small(peers=3, ranks_per_peer=4), size_bytes, FRAME)
    assert of_all.sent_bytes == pytest.approx(2 * (framed + 4 * (swapped.sent_bytes - framed)))


def test_logits_of_half_precision_are_sent_as_they_are(small):
    half, whole = small(logits_dtype="float16"), small()
    codec = dict(prediction_codecs(whole))["exact"]
    assert 2 * prediction_bytes(half, codec) == prediction_bytes(whole, codec) == 32 * 1000 * 4


def test_frames_add_headers_one_way_and_acknowledgements_the_other():
    # A mebibyte over 100 Mbit/s cost 4.2 to 4.6% one way and 1.8 to 2.9% the other, where cards cut nothing.
    on_wire = Traffic(1e6, 0).on_wire(FRAME)
    assert on_wire.sent_bytes == pytest.approx(1.0456e6, rel=1e-3)
    assert on_wire.received_bytes == pytest.approx(0.0228e6, rel=1e-2)
    assert Traffic(1e6, 0).on_wire(65_536).total_bytes == pytest.approx(1.0015e6, rel=1e-4)


def test_a_publish_sends_the_weights_once_however_many_read_them(small):
    alone, among_many = (
        publish(small(), "exact", FRAME),
        publish(small(peers=8, topology="all"), "exact", FRAME),
    )
    weights = Traffic(4e6, 0).on_wire(FRAME).sent_bytes
    assert alone.sent_bytes == pytest.approx(weights, rel=0.005)
    assert among_many.sent_bytes == pytest.approx(weights, rel=0.005)
    # It only asks more peers what they are reading.
    assert among_many.total_bytes > alone.total_bytes


@pytest.mark.parametrize(("topology", "teachers"), [("ring", 1), ("all", 7)])
def test_a_fetch_reads_the_weights_of_every_teacher(small, topology, teachers):
    fetched = fetch(small(peers=8, topology=topology), "exact", FRAME)
    weights = Traffic(0, teachers * 4e6).on_wire(FRAME).received_bytes
    assert fetched.received_bytes == pytest.approx(weights, rel=0.005)


def test_a_sharded_peer_publishes_as_many_files_as_it_has_ranks(small):
    whole, parts = small(ranks_per_peer=4), small(ranks_per_peer=4, is_sharded=True)
    more = publish(parts, "exact", FRAME).sent_bytes - publish(whole, "exact", FRAME).sent_bytes
    assert 3 * 1300 < more < 3 * 10_000


def test_signs_of_life_follow_the_clock_and_not_the_steps(small):
    assert heartbeat(small(), FRAME) == NOTHING
    slow, fast = heartbeat(small(step_s=2.0), FRAME), heartbeat(small(step_s=0.5), FRAME)
    assert slow.sent_bytes == pytest.approx(4 * fast.sent_bytes)
    assert slow.total_bytes / 2.0 * HEARTBEAT_S < 6000
