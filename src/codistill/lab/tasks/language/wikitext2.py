"""WikiText-2 (Merity et al. 2016) from ``<data root>/wikitext2/{train,valid,test}.txt.gz``, word by word.

The files hold words between spaces; ``<eos>`` is added at the end of every line, blank ones too, as is usual.
The vocabulary is the 10,000 most frequent of the 33,278 words of the training part, and all others are
``<unk>`` (9.7% of the training tokens), so that steps on a processor are short. Likelihoods are therefore
higher than published ones, and not to be compared with them.
"""

from pathlib import Path
from typing import final

from typing_extensions import override

from codistill.lab.tasks.cache import Array, cached_arrays, digest_of
from codistill.lab.tasks.language.lab_text import LabText, tokens_of
from codistill.lab.tasks.language.text_file import check_files, read_text
from codistill.lab.tasks.language.vocabulary import WordVocabulary

SOURCE = "https://github.com/pytorch/examples (word_language_model/data/wikitext-2, compressed with gzip)"
WORDS = 10_000
"""Size of the vocabulary."""


@final
class WikiText2(LabText):
    """Wikipedia articles, word by word in windows of 32."""

    positions = 32
    kind = WordVocabulary

    @classmethod
    @override
    def arrays(cls, data_root: Path) -> dict[str, Array]:
        train, valid, test = paths = [
            data_root / "wikitext2" / f"{part}.txt.gz" for part in ("train", "valid", "test")
        ]
        check_files(*paths, source=SOURCE)

        def make() -> dict[str, Array]:
            text = read_text(train)
            vocabulary = WordVocabulary.of(text, size=WORDS)
            return tokens_of(vocabulary, train=text, valid=read_text(valid), test=read_text(test))

        return cached_arrays(f"wikitext2-{WORDS}-{digest_of(*paths)}", make)
