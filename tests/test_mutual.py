import pytest
import torch
from torch import Tensor, nn

from codistill.losses import Divergence, kl_divergence
from codistill.mutual import mutual_losses


def three_logits() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def test_three_peers_are_the_formula_of_deep_mutual_learning():
    peers = three_logits()
    actual = mutual_losses(peers)
    q = [peer.detach().softmax(-1) for peer in peers]
    for i in range(3):
        others = [j for j in range(3) if j != i]
        expected = sum((q[j] * (q[j] / q[i]).log()).sum() / 4 for j in others) / 2
        torch.testing.assert_close(actual[i].detach(), expected)


def test_two_peers_are_each_the_others_teacher():
    a, b, _ = three_logits()
    of_a, of_b = mutual_losses([a, b], distillation_loss=Divergence("kl", temperature=2.0))
    torch.testing.assert_close(of_a, kl_divergence(a, b, temperature=2.0).mean())
    torch.testing.assert_close(of_b, kl_divergence(b, a, temperature=2.0).mean())


def test_the_loss_of_a_peer_has_no_gradient_into_the_others():
    peers = three_logits()
    for index, loss in enumerate(mutual_losses(peers)):
        gradients = torch.autograd.grad(loss, peers, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == [index == other for other in range(3)]


def test_the_sum_of_the_losses_trains_every_peer_as_its_own_loss_would():
    peers = three_logits()
    together = torch.autograd.grad(sum(mutual_losses(peers)), peers)
    apart = [
        torch.autograd.grad(loss, peer)[0] for loss, peer in zip(mutual_losses(peers), peers, strict=True)
    ]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_every_model_runs_forward_once_and_stays_in_train_mode():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()) for _ in range(3)]
    forwards = []
    for model in models:
        model.register_forward_hook(lambda module, *_: forwards.append(module))
    losses = mutual_losses([model(torch.randn(8, 3)) for model in models])
    sum(losses).backward()
    assert forwards == models
    assert all(module.training for model in models for module in model.modules())
    assert all(model[1].num_batches_tracked.item() == 1 for model in models)


def test_combine_mask_and_denominator_reach_the_term():
    peers = three_logits()
    mask = torch.tensor([True, False, True, True])
    (actual, *_) = mutual_losses(peers, combine="probabilities", mask=mask, denominator=6)
    p = (peers[1].softmax(-1) + peers[2].softmax(-1)) / 2
    q = peers[0].softmax(-1)
    torch.testing.assert_close(actual, (p * (p / q).log()).sum(-1)[mask].sum() / 6)


def test_one_peer_alone_is_refused():
    with pytest.raises(ValueError, match="list_of_logits must hold at least two peers' logits, got 1"):
        mutual_losses([torch.zeros(2, 3)])


def test_one_stacked_tensor_is_refused():
    with pytest.raises(TypeError, match=r"list_of_logits must be a list .* \[3, 4, 5\]"):
        mutual_losses(torch.zeros(3, 4, 5))


def test_peers_with_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \[\[2, 3\], \[2, 4\]\]"):
        mutual_losses([torch.zeros(2, 3), torch.zeros(2, 4)])
