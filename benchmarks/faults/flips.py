"""Flipping one bit of what lies in a store, and looking at what a reader takes."""

import random
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from codistill import CheckpointExchange
from codistill.errors import CodistillWarning
from codistill.exchange.base import Progress
from codistill.exchange.checkpoint.publisher import SnapshotOptions
from codistill.testing import FakeClock, InlineBackground
from faults.trainer import Net

DOCUMENTS: Final = ("pointer", "manifest", "shard")
_WIDTH: Final = 16


@dataclass(slots=True, kw_only=True)
class Flips:
    """What a number of flipped bits came to."""

    tries: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DOCUMENTS, 0))
    """Bits flipped, by document."""
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DOCUMENTS, 0))
    """Of these refused, with peer and key in the one warning; the teacher stayed as it was to the bit."""
    harmless: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DOCUMENTS, 0))
    """Of these taken, and the teacher has to the bit what was published."""
    wrong: list[str] = field(default_factory=list)
    """What came to anything else."""
    not_recovered: int = 0
    """Of all, after which the next good snapshot was not taken."""


class Pair:
    """A peer that publishes, and one that learns from it, step by step in one process."""

    def __init__(self, folder: Path, *, signing_key_file: Path | None = None) -> None:
        """Let both begin.

        Args:
            folder: The run's.
            signing_key_file: What they sign with.
        """
        self.folder = folder
        self._snapshots = SnapshotOptions(signing_key_file=signing_key_file)
        self._step = 0
        self.publisher = self._join("a")
        self.reader = self._join("b")

    def publish(self) -> torch.Tensor:
        """Publish new random weights; return them, flat."""
        self._step += 1
        with torch.no_grad():
            for parameter in self.models["a"].parameters():
                parameter.normal_()
        self.publisher.step(Progress(step=self._step))
        return self.models["a"](torch.empty(1, 0))

    def look(self) -> list[str]:
        """Let the reader look; return what it says."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CodistillWarning)
            self.reader.step(Progress(step=self._step))
        return [str(warning.message) for warning in caught]

    def held(self) -> torch.Tensor:
        """Return the weights that the reader's teacher has, flat."""
        (prediction,) = self.reader.predict(torch.empty(1, 0), None).peers
        return prediction.target.logits

    def path(self, document: str) -> Path:
        """Return where a document of the newest snapshot lies."""
        if document == "pointer":
            return self.folder / "a" / "latest.json"
        order = self.publisher.state_dict()["previous"]["key"].rsplit("/", 1)[0]
        name = "manifest.json" if document == "manifest" else "shard-00001-of-00001.safetensors"
        return self.folder / order / name

    def close(self) -> None:
        """End both."""
        for exchange in (self.publisher, self.reader):
            exchange.close(Progress(step=self._step), publish=False)

    def _join(self, peer: str) -> CheckpointExchange:
        exchange = CheckpointExchange(self.folder, peer=peer, interval_steps=1, snapshots=self._snapshots)
        exchange.clock = FakeClock()
        exchange.background = InlineBackground()
        torch.manual_seed(ord(peer))
        self.models = {**getattr(self, "models", {}), peer: Net(_WIDTH)}
        exchange.bind(self.models[peer], None)
        exchange.begin(Progress())
        return exchange


def flip_bit(path: Path, bit: int) -> None:
    """Change one bit of a file where it lies."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def run(folder: Path, *, count: int, seed: int, signing_key_file: Path | None = None) -> Flips:
    """Flip bits of real snapshots one after the other, each of a new one.

    **Blocks**: some 20 ms a bit.

    Args:
        folder: The run's, empty.
        count: How many.
        seed: Of which.
        signing_key_file: What the peers sign with.
    """
    rng = random.Random(seed)
    pair, flips = Pair(folder, signing_key_file=signing_key_file), Flips()
    for _ in range(count):
        good = pair.publish()
        said = pair.look()
        flips.not_recovered += bool(said) or not torch.equal(pair.held(), good)
        document = rng.choice(DOCUMENTS)
        new = pair.publish()
        path = pair.path(document)
        bit = rng.randrange(8 * path.stat().st_size)
        flip_bit(path, bit)
        said = pair.look()
        flips.tries[document] += 1
        # Of a pointer whose digest was flipped it is the manifest that is not what it should be.
        keys = [str(pair.path(each).relative_to(folder)) for each in (document, "manifest")]
        if said == [] and torch.equal(pair.held(), new):
            flips.harmless[document] += 1
        elif torch.equal(pair.held(), good) and _is_refusal(said, keys):
            flips.refused[document] += 1
        else:
            flips.wrong.append(f"bit {bit} of {keys[0]}: {said}")
        flip_bit(path, bit)
    pair.close()
    return flips


def _is_refusal(said: list[str], keys: list[str]) -> bool:
    """Return whether one warning names the peer and one of the keys."""
    return len(said) == 1 and "peer 'a'" in said[0] and any(key in said[0] for key in keys)
