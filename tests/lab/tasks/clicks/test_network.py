import torch

from codistill.lab.tasks.clicks.network import HashedNetwork


def make(**changes) -> HashedNetwork:
    torch.manual_seed(0)
    sizes = {"numbers": 3, "categories": 2, "buckets": 10, **changes}
    return HashedNetwork(*sizes.values(), embedding=4, widths=(8, 5))


def test_a_sample_has_one_logit() -> None:
    network = make()
    numbers, categories = torch.randn(6, 3), torch.randint(10, (6, 2))
    assert network(numbers, categories).shape == (6, 1)
    assert sum(p.numel() for p in network.parameters()) == 20 * 4 + (11 * 8 + 8) + (8 * 5 + 5) + (5 + 1)


def test_the_same_bucket_of_two_columns_has_two_embeddings() -> None:
    network = make()
    network(torch.zeros(1, 3), torch.tensor([[7, 7]])).sum().backward()
    assert network.embedding.weight.grad is not None
    assert network.embedding.weight.grad.any(dim=1).nonzero().flatten().tolist() == [7, 17]


def test_initial_weights_come_from_the_global_generator() -> None:
    first, second = make().state_dict(), make().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(1)
    other = HashedNetwork(3, 2, 10, embedding=4, widths=(8, 5)).state_dict()
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_a_state_holds_nothing_but_what_is_learned() -> None:
    network = make()
    assert network.state_dict().keys() == dict(network.named_parameters()).keys()


def test_there_may_be_no_numbers() -> None:
    assert make(numbers=0)(torch.zeros(2, 0), torch.zeros(2, 2, dtype=torch.int64)).shape == (2, 1)
