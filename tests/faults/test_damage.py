import pytest
import torch
from torch import nn

from codistill.exchange.checkpoint.inspection import inspect_run
from codistill.stores.directory import DirectoryStore
from faults import flips


@pytest.fixture(params=["unsigned", "signed"])
def pair(request, tmp_path):
    key = None
    if request.param == "signed":
        key = tmp_path / "key"
        key.write_text("k" * 64)
        key.chmod(0o600)
    pair = flips.Pair(tmp_path / "run", signing_key_file=key)
    yield pair
    pair.close()


def check_refused_once_and_recovered(pair, good, *names):
    """Check what the reader does with what is damaged, and with the snapshot after that."""
    said = [message for _ in range(3) for message in pair.look()]
    assert len(said) == 1, said
    for name in ("peer 'a'", *names):
        assert name in said[0]
    assert torch.equal(pair.held(), good)
    better = pair.publish()
    assert pair.look() == []
    assert torch.equal(pair.held(), better)


@pytest.mark.parametrize("document", flips.DOCUMENTS)
@pytest.mark.parametrize("place", [0.02, 0.4, 0.98])
def test_a_flipped_bit_is_refused_and_the_last_good_teacher_stays(pair, document, place):
    good = pair.publish()
    assert pair.look() == []
    pair.publish()
    path = pair.path(document)
    flips.flip_bit(path, int(8 * path.stat().st_size * place))
    key = f"a/snapshots/0-1/{path.name}" if document != "pointer" else ""  # its sequence cannot be known
    check_refused_once_and_recovered(pair, good, key)


def test_sixty_random_bits_are_all_refused_or_harmless(tmp_path):
    result = flips.run(tmp_path / "run", count=60, seed=1)
    assert result.wrong == []
    assert result.not_recovered == 0
    assert sum(result.tries.values()) == 60
    assert all(result.refused[document] > 10 for document in flips.DOCUMENTS)


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("document", flips.DOCUMENTS)
def test_a_truncated_file_is_refused_and_the_last_good_teacher_stays(pair, document, left):
    good = pair.publish()
    assert pair.look() == []
    pair.publish()
    path = pair.path(document)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * left))
    check_refused_once_and_recovered(pair, good, path.name)


@pytest.mark.parametrize("document", flips.DOCUMENTS)
def test_a_deleted_file_leaves_the_last_good_teacher(pair, document):
    good = pair.publish()
    assert pair.look() == []
    pair.publish()
    pair.path(document).unlink()
    # A pointer that is gone is nothing wrong: a share may not be mounted.
    said = [message for _ in range(3) for message in pair.look()]
    assert len(said) == (document != "pointer")
    assert torch.equal(pair.held(), good)
    better = pair.publish()
    assert pair.look() == []
    assert torch.equal(pair.held(), better)


def test_a_snapshot_of_another_model_is_refused_and_the_last_good_teacher_stays(store, join):
    publisher, reader = join(store, "a", value=1.0), join(store, "b", value=2.0)
    publisher.step()
    reader.step()
    publisher.close()
    other = join(store, "a", model=nn.Linear(4, 7), value=5.0, state=publisher.codistiller.state_dict())
    # To it, what b publishes is of another model.
    assert len(other.say()) == 1
    (said,) = reader.say(3)
    assert "peer 'a'" in said
    assert "does not fit this model: 'bias' is [7] there and [3] here" in said
    assert reader.value_of("a") == 1.0


def test_what_is_damaged_is_found_by_an_inspection(tmp_path):
    pair = flips.Pair(tmp_path / "run")
    pair.publish()
    flips.flip_bit(pair.path("shard"), 4321)
    (problem,) = inspect_run(DirectoryStore(tmp_path / "run")).problems
    assert problem.key == "a/snapshots/0-0/shard-00001-of-00001.safetensors"
    pair.close()
