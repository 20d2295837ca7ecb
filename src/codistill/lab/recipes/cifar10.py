"""Two peers on CIFAR-10, the setting of Sodhani et al. at the scale of a laptop.

The paper trains ResNet-50 on ImageNet (section 3): 16 GPUs, either as one model or as two of 8 GPUs each, so
that both arms cost the same samples an update. Here ResNet-8 on CIFAR-10, 128 samples an update. Kept:
equal samples and updates in both arms, step-wise learning rate, constant weight of the distillation loss,
no burn-in, weight decay lowered when the learning rate drops (section 3.2). Not kept: warm-up, KL in place
of the squared error between logits.
"""

from codistill.lab.recipe import Recipe

RECIPE = Recipe(
    name="cifar10",
    summary="Two ResNet-8 on CIFAR-10 photographs; minutes on a laptop.",
    task="cifar10",
    method="codistillation",
    peers=2,
    ranks=2,
    updates=2000,
    batch_size=128,
    learning_rate=0.1,
    learning_rate_drops=(0.5, 0.75),
    weight_decay=5e-4,
    weight_decay_factor=0.1,
    interval_steps=50,
    evaluate_every=200,
    checkpoint_every=200,
)
