"""IWSLT'14 from ``<data root>/iwslt14/{train,valid,test}.{de,en}``: talks, German to English.

The setting of Sodhani et al. (section 4): a big transformer on 153,000 pairs, 7,000 to validate and 7,000 to
test; a joint vocabulary of 10,000. The files are the user's own copy, UTF-8, a sentence a line and line i of
one the translation of line i of the other. They are taken as they are: if they were tokenised or put in
lower case before, so is the text that BLEU compares.
"""

from pathlib import Path

from typing_extensions import override

from codistill.lab.tasks.translation.task import Translation, parallel_files


class Iwslt14(Translation):
    """German sentences from talks and their English translations, for a transformer of the paper's size."""

    name = "iwslt14"
    origin = "the TED talks of wit3.fbk.eu/2014-01, as prepared by fairseq's prepare-iwslt14.sh"
    languages = ("de", "en")
    models = ("transformer_big", "base")
    most_classes = 10000
    longest = 256

    @classmethod
    @override
    def files(cls, data_root: Path, part: str) -> tuple[Path, ...]:
        return parallel_files(Path(data_root) / cls.name, part, languages=cls.languages)
