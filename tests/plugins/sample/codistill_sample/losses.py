"""A loss: how far a student's prediction is from a teacher's."""

from torch import Tensor
from torch.nn.functional import log_softmax

from codistill import Divergence


def squared_hellinger(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return 1 minus the overlap of the two distributions, between 0 and 1: [batch, ...]."""
    student, teacher = log_softmax(student_logits, dim=-1), log_softmax(teacher_logits, dim=-1)
    return 1 - ((student + teacher) / 2).exp().sum(-1)


hellinger_loss = Divergence(squared_hellinger, acts_on="probabilities")
