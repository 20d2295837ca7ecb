"""Plays of Shakespeare from ``<data root>/tinyshakespeare/input.txt``, character by character.

In order of the file, the first 90% train, the next 5% validate and the last 5% test.
"""

from pathlib import Path
from typing import final

from typing_extensions import override

from codistill.lab.tasks.cache import Array, cached_arrays, digest_of
from codistill.lab.tasks.language.lab_text import LabText, tokens_of
from codistill.lab.tasks.language.text_file import check_files, read_text
from codistill.lab.tasks.language.vocabulary import CharacterVocabulary

SOURCE = "https://github.com/karpathy/char-rnn (data/tinyshakespeare/input.txt)"


@final
class Shakespeare(LabText):
    """Plays, character by character in windows of 64."""

    positions = 64
    kind = CharacterVocabulary

    @classmethod
    @override
    def arrays(cls, data_root: Path) -> dict[str, Array]:
        path = data_root / "tinyshakespeare" / "input.txt"
        check_files(path, source=SOURCE)

        def make() -> dict[str, Array]:
            text = read_text(path)
            train, valid = len(text) * 90 // 100, len(text) * 95 // 100
            vocabulary = CharacterVocabulary.of(text[:train])
            return tokens_of(vocabulary, train=text[:train], valid=text[train:valid], test=text[valid:])

        return cached_arrays(f"shakespeare-{digest_of(path)}", make)
