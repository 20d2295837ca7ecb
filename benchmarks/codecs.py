"""What each codec of snapshots costs in bytes and seconds, and in what the teachers then predict.

    python benchmarks/codecs.py [--json result.json]

Speed: a state of 100 MB is encoded (copied to staging memory, quantised, its digests taken) and decoded
(digests verified, values converted), all codecs in every round, in an order that changes from round to
round, so that what disturbs the machine disturbs all alike. Beside them stands the floor of any codec that
keeps every bit: one copy of the state and one SHA-256 over it.

Predictions: a teacher is trained on scikit-learn's digits (and, where CODISTILL_DATA holds it, on CIFAR-10),
encoded and decoded. What counts is KL(teacher || decoded teacher), the mean over the test images, in nats;
its yardstick is KL(teacher || another teacher), trained from another seed: a codec that adds a thousandth of
that adds a thousandth of what codistillation works with.

Hivemind's 8-bit codecs are measured beside ours where `hivemind` is installed (its blockwise one needs
`bitsandbytes` too and, in hivemind 1.1, numpy below 2.4), on the tensors that our int8 quantises. They take
and verify no digests, and nothing copies the other tensors into a file.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from codistill.lab.data_root import data_root
from codistill.lab.provenance import machine, versions
from codistill.lab.tasks.base import Task
from codistill.lab.tasks.images.cifar10 import Cifar10
from codistill.lab.tasks.images.digits import Digits
from codistill.lab.tasks.samples import Split
from codistill.snapshots.codec import CODECS, decode, verify_shard
from codistill.snapshots.fingerprint import fingerprint
from codistill.snapshots.manifest import Manifest
from codistill.snapshots.precision import FEWEST_ROUNDED_ELEMENTS
from codistill.snapshots.staging import Staging

WARM_UP_ROUNDS = 2
HIVEMIND_CODECS = ("BlockwiseQuantization", "Uniform8BitQuantization", "Quantile8BitQuantization")
TASKS = {"digits": (Digits, 400), "cifar10": (Cifar10, 400)}

State = Mapping[str, Tensor]


class Contender(ABC):
    """One way to turn a state into bytes and back."""

    @abstractmethod
    def encode(self, state: State) -> int:
        """Keep the state, encoded, and return its bytes."""

    @abstractmethod
    def receive(self) -> None:
        """Give the reader what was encoded, in memory of its own, as a store would; not timed."""

    @abstractmethod
    def decode(self) -> dict[str, Tensor]:
        """Return the state that was received."""


class Codec(Contender):
    """A codec of ours."""

    def __init__(self, codec: str, state: State) -> None:
        self._codec = codec
        self._staging = Staging(state, codec=codec)

    @override
    def encode(self, state: State) -> int:
        self._staging.fill(state)
        self._encoded = self._staging.encode()
        return self._encoded.shards[0][0].size_bytes

    @override
    def receive(self) -> None:
        ((shard, content),) = self._encoded.shards
        self._file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._manifest = Manifest(
            run_id="c0dec5",
            peer="a",
            incarnation=0,
            sequence=0,
            step=0,
            samples=0,
            task_loss=None,
            interval_steps=1,
            codec=self._codec,
            finished=False,
            metadata={},
            fingerprint=fingerprint({entry.name: entry.shape for entry in self._encoded.tensors}),
            tensors=self._encoded.tensors,
            aliases=self._encoded.aliases,
            shards=(shard,),
            previous=None,
        )

    @override
    def decode(self) -> dict[str, Tensor]:
        verify_shard(self._manifest.shards[0], self._file.numpy().data)
        return decode(self._manifest, [self._file])


class Floor(Contender):
    """One copy of the state and one SHA-256 over it; one more SHA-256 where it is read."""

    def __init__(self, state: State) -> None:
        self._copies = {name: torch.empty_like(tensor) for name, tensor in state.items()}

    @override
    def encode(self, state: State) -> int:
        for name, copy in self._copies.items():
            copy.copy_(state[name])
        self._digest()
        return sum(copy.nbytes for copy in self._copies.values())

    @override
    def receive(self) -> None:
        pass

    @override
    def decode(self) -> dict[str, Tensor]:
        self._digest()
        return self._copies

    def _digest(self) -> None:
        digest = hashlib.sha256()
        for copy in self._copies.values():
            digest.update(copy.reshape(-1).view(torch.uint8).numpy().data)


class Hivemind(Contender):
    """A codec of hivemind's, on the tensors that our int8 quantises."""

    def __init__(self, codec: str) -> None:
        import hivemind.compression

        self._codec = getattr(hivemind.compression, codec)()
        self._info_of = hivemind.compression.CompressionInfo.from_tensor

    @override
    def encode(self, state: State) -> int:
        self._compressed = {
            name: self._codec.compress(tensor, self._info_of(tensor))
            for name, tensor in state.items()
            if tensor.is_floating_point() and tensor.numel() >= FEWEST_ROUNDED_ELEMENTS
        }
        self._exact = {name: tensor.clone() for name, tensor in state.items() if name not in self._compressed}
        compressed_bytes = sum(message.ByteSize() for message in self._compressed.values())
        return compressed_bytes + sum(tensor.nbytes for tensor in self._exact.values())

    @override
    def receive(self) -> None:
        pass

    @override
    def decode(self) -> dict[str, Tensor]:
        return self._exact | {
            name: self._codec.extract(message) for name, message in self._compressed.items()
        }


def find_hivemind() -> dict[str, str]:
    """Return for each of hivemind's codecs the reason why it cannot be measured, empty if it can."""
    reasons = {}
    for codec in HIVEMIND_CODECS:
        try:
            contender = Hivemind(codec)
            contender.encode({"x": torch.randn(2000)})
            contender.decode()
        except ModuleNotFoundError as e:
            reasons[codec] = "not installed" if e.name == "hivemind" else f"does not work here: {e}"
        except Exception as e:  # noqa: BLE001 - old code on new libraries fails in ways nobody can list
            reasons[codec] = f"does not work here: {type(e).__name__}: {e}"
        else:
            reasons[codec] = ""
    return reasons


def contenders(state: State, hivemind: Mapping[str, str]) -> dict[str, Contender]:
    """Return everything that can be measured, by name."""
    ours: dict[str, Contender] = {codec: Codec(codec, state) for codec in CODECS}
    theirs = {f"hivemind {codec}": Hivemind(codec) for codec, reason in hivemind.items() if not reason}
    return ours | theirs


def measure_speed(megabytes: float, rounds: int, hivemind: Mapping[str, str]) -> dict[str, Any]:
    """Return bytes and median seconds of all contenders on a state of matrices."""
    generator = torch.Generator().manual_seed(0)
    width = 512
    layers = max(1, round(megabytes * 1e6 / (4 * width**2)))
    state = {f"{i}.weight": torch.randn(width, width, generator=generator) for i in range(layers)}
    measured: dict[str, Contender] = {"memcpy + sha256": Floor(state)} | contenders(state, hivemind)
    names = list(measured)
    sizes: dict[str, int] = {}
    seconds: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in names}
    rng = np.random.default_rng(0)
    for round_number in range(WARM_UP_ROUNDS + rounds):
        rng.shuffle(names)
        for name in names:
            contender = measured[name]
            begin_s = time.perf_counter()
            sizes[name] = contender.encode(state)
            encoded_s = time.perf_counter()
            contender.receive()
            received_s = time.perf_counter()
            contender.decode()
            decoded_s = time.perf_counter()
            if round_number >= WARM_UP_ROUNDS:
                seconds[name]["encode"].append(encoded_s - begin_s)
                seconds[name]["decode"].append(decoded_s - received_s)
    return {
        name: {
            "bytes": sizes[name],
            "encode_s": statistics.median(seconds[name]["encode"]),
            "decode_s": statistics.median(seconds[name]["decode"]),
        }
        for name in measured
    }


def train(task: Task, seed: int, steps: int) -> nn.Module:
    """Return a model of the task, trained with Adam on batches of 128."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, total_iters=steps)
    for _ in range(steps):
        rows = torch.randint(len(task.train.targets), (128,), generator=generator)
        logits = model(task.training_inputs(task.train.inputs[rows], generator))
        F.cross_entropy(logits, task.train.targets[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


@torch.no_grad()
def predict(task: Task, model: nn.Module, split: Split) -> Tensor:
    """Return log-probabilities in float64, [samples, classes]."""
    logits = [model(task.inputs(inputs)) for inputs in split.inputs.split(500)]
    return torch.cat(logits).double().log_softmax(1)


def kl(teacher: Tensor, other: Tensor) -> float:
    """Return the mean KL(teacher || other) of log-probabilities, in nats."""
    return F.kl_div(other, teacher, reduction="batchmean", log_target=True).item()


def measure_predictions(
    task: Task, seeds: range, steps: int, hivemind: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, list[float]], list[float]]:
    """Return the bytes of every codec, what it and the yardstick add in KL, a seed each, and accuracies."""
    split = task.test()
    sizes: dict[str, int] = {}
    added: dict[str, list[float]] = {"another teacher": []}
    accuracies = []
    for seed in seeds:
        model = train(task, seed, steps)
        teacher = predict(task, model, split)
        accuracies.append((teacher.argmax(1) == split.targets).double().mean().item())
        another = predict(task, train(task, 1000 + seed, steps), split)
        added["another teacher"].append(kl(teacher, another))
        state = model.state_dict()
        decoded_model = task.model().eval()
        for name, contender in contenders(state, hivemind).items():
            sizes[name] = contender.encode(state)
            contender.receive()
            decoded_model.load_state_dict(contender.decode())
            added.setdefault(name, []).append(kl(teacher, predict(task, decoded_model, split)))
    return sizes, added, accuracies


def spread(values: list[float]) -> dict[str, Any]:
    """Return mean, standard deviation over the seeds, and the values themselves."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "standard_deviation": deviation, "values": values}


def main() -> int:
    """Measure, print, and tell whether the exact codec is exact."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--megabytes", type=float, default=100, help="size of the state that is timed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3, help="how many teachers of each task")
    parser.add_argument(
        "--steps", type=int, help="of each teacher's training, instead of the task's own number"
    )
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), help="default: those whose data are there")
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    hivemind = find_hivemind()
    speed = measure_speed(arguments.megabytes, arguments.rounds, hivemind)
    print(f"a state of {arguments.megabytes:g} MB, medians of {arguments.rounds} rounds")
    for name, row in speed.items():
        print(
            f"{name:34} {row['bytes'] / 1e6:8.2f} MB   encode {row['encode_s'] * 1000:7.1f} ms"
            f"   decode {row['decode_s'] * 1000:7.1f} ms"
        )
    has_cifar10 = (data_root() / "cifar10").is_dir()
    chosen = arguments.tasks or ["digits", *(["cifar10"] if has_cifar10 else [])]
    seeds = range(arguments.seeds)
    predictions = {}
    for task_name in chosen:
        build, steps = TASKS[task_name]
        steps = steps if arguments.steps is None else arguments.steps
        sizes, added, accuracies = measure_predictions(build(data_root()), seeds, steps, hivemind)
        predictions[task_name] = {
            "steps": steps,
            "accuracy": spread(accuracies),
            "bytes": sizes,
            "kl_nats": {name: spread(values) for name, values in added.items()},
        }
        print(f"\n{task_name}: teachers of {steps} steps, accuracy {statistics.mean(accuracies):.3f}")
        for name, values in added.items():
            size = f"{sizes[name]:9d} bytes" if name in sizes else ""
            mean = statistics.mean(values)
            print(f"{name:34} {size:15}   KL {mean:.2e}   {min(values):.2e} to {max(values):.2e}")
    for codec, reason in hivemind.items():
        if reason:
            print(f"hivemind {codec}: {reason}")
    result = {
        "megabytes": arguments.megabytes,
        "rounds": arguments.rounds,
        "speed": speed,
        "seeds": list(seeds),
        "predictions": predictions,
        "hivemind_not_measured": {codec: reason for codec, reason in hivemind.items() if reason},
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions() | versions_of("hivemind", "bitsandbytes"),
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    inexact = [name for name, task in predictions.items() if task["kl_nats"]["exact"]["mean"] != 0]
    if inexact:
        print(f"the exact codec changed predictions: {', '.join(inexact)}", file=sys.stderr)
    return 1 if inexact else 0


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    installed = {distribution.name for distribution in metadata.distributions()}
    return {package: metadata.version(package) for package in packages if package in installed}


if __name__ == "__main__":
    sys.exit(main())
