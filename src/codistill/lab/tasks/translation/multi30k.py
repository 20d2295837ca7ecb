"""Multi30k from ``<data root>/multi30k``: captions of photographs, German to English.

``{train,val,test_2016_flickr}.{de,en}.gz`` (Elliott et al. 2016; task 1, raw text), a sentence a line:
29,000 pairs to train on, 1,014 to validate and 1,000 to test. The direction is that of IWSLT'14, for which
it stands in: Sodhani et al. (section 4) train a big transformer there.
"""

from pathlib import Path

from typing_extensions import override

from codistill.lab.tasks.translation.task import Translation

_FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}


class Multi30k(Translation):
    """Short German sentences about everyday scenes, their English translations, and a small transformer."""

    name = "multi30k"
    origin = "github.com/multi30k/dataset, data/task1/raw"
    languages = ("de", "en")
    models = ("small",)
    most_classes = 4000
    longest = 64

    @classmethod
    @override
    def files(cls, data_root: Path, part: str) -> tuple[Path, ...]:
        folder = Path(data_root) / cls.name
        return tuple(folder / f"{_FILES[part]}.{language}.gz" for language in cls.languages)
