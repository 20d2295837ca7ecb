from pathlib import Path

import torch

from codistill.lab.tasks.translation.iwslt14 import Iwslt14


def test_german_talks_are_translated_to_english(small_parallel: Path) -> None:
    Iwslt14.prepare(small_parallel)
    task = Iwslt14(small_parallel)
    assert (len(task.train), len(task.validation), len(task.test())) == (24, 6, 6)
    (source, _), target = task.test().batch(torch.tensor([5]))
    assert task.vocabulary.decode(source[0].tolist()) == "Das M\u00e4dchen singt zu Hause."
    assert task.vocabulary.decode(target[0].tolist()) == "The girl sings at home."
    assert Iwslt14.models == ("transformer_big", "base")
    assert Iwslt14.most_classes == 10000
