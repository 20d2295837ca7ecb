from pathlib import Path

import torch

from codistill.lab import checkpoint


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1, "weight": torch.ones(3)})
    checkpoint.save(path, {"step": 2, "weight": torch.zeros(3)})
    state = checkpoint.load(path)
    assert state["step"] == 2
    assert torch.equal(state["weight"], torch.zeros(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_both_generators_go_on_where_they_were() -> None:
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    state = checkpoint.gather_random_state(generator, ranks=1)
    assert state.shape[:2] == (1, 2)
    expected = torch.rand(5), torch.rand(5, generator=generator)
    other = torch.Generator()
    torch.manual_seed(9)
    checkpoint.set_random_state(other, state[0])
    assert torch.equal(torch.rand(5), expected[0])
    assert torch.equal(torch.rand(5, generator=other), expected[1])
