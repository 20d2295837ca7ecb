from pathlib import Path

import torch

from codistill.lab.tasks.translation.transformer import Transformer
from codistill.lab.tasks.translation.wmt16 import Wmt16


def test_english_is_translated_to_german(small_parallel: Path) -> None:
    Wmt16.prepare(small_parallel)
    task = Wmt16(small_parallel)
    assert (len(task.train), len(task.validation), len(task.test())) == (24, 6, 6)
    (source, _), target = task.validation.batch(torch.tensor([0]))
    assert task.vocabulary.decode(source[0].tolist()) == "The man sings in the park."
    assert task.vocabulary.decode(target[0].tolist()) == "Der Mann singt im Park."


def test_the_papers_transformer_comes_first(small_parallel: Path) -> None:
    task = Wmt16(small_parallel)
    with torch.device("meta"):
        big, base = task.model(), task.model("base")
    assert isinstance(big, Transformer)
    assert isinstance(base, Transformer)
    assert big.embedding.weight.shape == (task.classes, 1024)
    assert base.embedding.weight.shape == (task.classes, 512)
    assert len(big.encoder) == len(big.decoder) == len(base.encoder) == 6
    shared = task.classes * 1024
    # All but the vocabulary, of which the made-up text has less.
    assert sum(p.numel() for p in big.parameters()) - shared == 209129472 - 32000 * 1024
    assert Wmt16.most_classes == 32000
