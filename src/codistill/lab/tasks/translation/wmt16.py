"""WMT'16 from ``<data root>/wmt16/{train,valid,test}.{en,de}``: news and more, English to German.

The setting of Sodhani et al. (appendix A.4), who follow Ott et al. (2018) and Vaswani et al. (2017): a joint
vocabulary of 32,000. The files are the user's own copy, UTF-8, a sentence a line and line i of one the
translation of line i of the other; customary are newstest2013 to validate and newstest2014 to test. They are
taken as they are: if they were tokenised before, so is the text that BLEU compares.
"""

from pathlib import Path

from typing_extensions import override

from codistill.lab.tasks.translation.task import Translation, parallel_files


class Wmt16(Translation):
    """English sentences and their German translations, for a transformer of the paper's size."""

    name = "wmt16"
    origin = "statmt.org/wmt16/translation-task.html"
    languages = ("en", "de")
    models = ("transformer_big", "base")
    most_classes = 32000
    longest = 256

    @classmethod
    @override
    def files(cls, data_root: Path, part: str) -> tuple[Path, ...]:
        return parallel_files(Path(data_root) / cls.name, part, languages=cls.languages)
