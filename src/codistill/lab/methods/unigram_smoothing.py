"""One model whose labels are spread over the classes as these are distributed in the training data."""

from typing_extensions import override

from codistill.lab.methods.label_smoothing import LabelSmoothing, Prior


class UnigramSmoothing(LabelSmoothing):
    """Synchronous SGD with smoothing towards the unigram distribution, as for language models."""

    @classmethod
    @override
    def _prior(cls) -> Prior:
        return "unigram"
