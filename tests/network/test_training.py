import pytest
from network.cases import Case
from network.forecast import job_of
from network.measurement import FailedError, ask, measure, peers
from network.training import Size
from network.ways import AllReduce, Checkpoints

from codistill.planner import Link, plan

pytestmark = pytest.mark.spawn

SMALL = Size(width=512, classes=500, batch=32)
# What no step waits for here: the tests are about bytes, and about what goes on.
IDLE_S = 0.0


def plan_of(case, *, interval_steps=50):
    job = job_of(case.size, interval_steps=interval_steps)
    return plan(job, Link.parse(case.rate)).costs[case.scheme].between


def check(result, planned):
    for what, planned_bytes in (("sent", planned.sent_bytes), ("received", planned.received_bytes)):
        measured_bytes = result[f"{what}_bytes"] / result["steps"]
        assert planned_bytes == pytest.approx(measured_bytes, rel=0.05), what


@pytest.mark.parametrize("scheme", ["all_reduce", "prediction/top_k"])
def test_what_ranks_and_peers_send_one_another_at_each_step_is_what_is_planned(hosts, start, scheme):
    case = Case(rate="100Mbit", size="small", scheme=scheme)
    way = case.way({}, "run")
    result = measure(start, hosts, SMALL, way, steps=4 if scheme == "all_reduce" else 20, idle_s=IDLE_S)
    check(result, plan_of(case))


@pytest.mark.parametrize(("scheme", "store"), [("checkpoint/int8", "s3"), ("checkpoint/exact", "sftp")])
def test_what_an_interval_sends_and_receives_is_what_is_planned(hosts, start, scheme, store, request):
    case = Case(rate="100Mbit", size="small", scheme=scheme, interval_steps=50, store=store)
    way = case.way({store: request.getfixturevalue(store)}, f"run-{scheme.replace('/', '-')}")
    result = measure(start, hosts, SMALL, way, steps=100, idle_s=IDLE_S)
    assert (result["published"], result["fetched"]) == (2, 2)
    assert (len(result["publish_s"]), len(result["fetch_s"])) == (2, 2)
    assert result["warnings"] == []
    check(result, plan_of(case))


@pytest.mark.parametrize("how", ["silent", "down"])
def test_peers_train_on_while_the_link_is_cut_and_their_teachers_return_afterwards(hosts, start, s3, how):
    way = Checkpoints(
        codec="exact", interval_steps=20, store=f"{s3.url}/cut-{how}", environment=s3.environment
    )
    with peers(start, hosts, Size(width=16, classes=10, batch=4), way, idle_s=IDLE_S) as pair:
        ask(pair, "train", 50)
        with hosts.cut(how):
            # Answered at all: an interval that waited for the link would not end before it heals.
            steps = [step for answer in ask(pair, "train", 100) for step in answer["steps"]]
            assert len(steps) == 200
            age_steps = ask(pair[1:], "train", 1)[0]["steps"][0]["age_steps"]
            assert age_steps is None or age_steps > 100
        for peer in pair:
            # Who resumes after a while may have seen too few samples for the other; that passes.
            for _ in range(40):
                ask([peer], "settle")
                answers = ask(pair, "train", 20)
                if any(step["fetched"] for step in answers[pair.index(peer)]["steps"]):
                    break
            else:
                pytest.fail(f"peer {peer.name} has no new snapshot of the other")
        ask(pair, "close")


def test_a_peer_that_fails_says_why(hosts, start):
    way = Checkpoints(codec="exact", interval_steps=20, store="/dev/null/store", environment={})
    with pytest.raises(FailedError, match="StoreError"), peers(start, hosts, SMALL, way):
        pass


def test_ranks_that_wait_for_one_another_stop_at_the_step_they_are_told(hosts, start):
    with peers(start, hosts, Size(width=16, classes=10, batch=4), AllReduce(), idle_s=IDLE_S) as pair:
        for peer in pair:
            peer.tell("train until told")
        last = max(answer["count"] for answer in ask(pair, "where")) + 200
        assert [len(answer["steps"]) for answer in ask(pair, "stop", last)] == [last, last]
        ask(pair, "close")
