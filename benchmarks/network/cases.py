"""What is measured: ways of training, sizes, rates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from codistill.exchange.prediction.codec import TopK
from codistill.snapshots.precision import CODECS
from network.hosts import BIT_RATES
from network.stores import StoreServer
from network.training import Size
from network.ways import AllReduce, Alone, Checkpoints, Predictions, Way

SIZES: Final[Mapping[str, Size]] = MappingProxyType(
    {
        "small": Size(width=512, classes=500, batch=32),
        "large": Size(width=1024, classes=1000, batch=64),
    }
)
TOP_K: Final = TopK(32, sampled=8)

INTERVALS: Final = MappingProxyType({50: 4, 500: 1})
"""Steps between two publishes -> how many such intervals are counted."""

_STEPS: Final = 40
_SLOW_STEPS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way of training on one link."""

    rate: str
    """A key of `BIT_RATES`."""
    size: str
    """A key of `SIZES`."""
    scheme: str
    """"alone", or as the planner calls it."""
    interval_steps: int | None = None
    """Steps between two publishes."""
    store: str | None = None
    """"s3" or "sftp"."""

    @property
    def key(self) -> str:
        """What it is called in the results."""
        parts = (self.rate, self.size, self.scheme, self.interval_steps, self.store)
        return " ".join(f"{part}" for part in parts if part is not None)

    @property
    def steps(self) -> int:
        """How many are counted."""
        if self.interval_steps is not None:
            return self.interval_steps * INTERVALS[self.interval_steps]
        return _SLOW_STEPS if self.scheme == "all_reduce" else _STEPS

    def way(self, stores: Mapping[str, StoreServer], run: str) -> Way:
        """Return how the peers train.

        Args:
            stores: By name.
            run: The folder of the run, which is new.
        """
        kind, _, codec = self.scheme.partition("/")
        match kind:
            case "alone":
                return Alone()
            case "all_reduce":
                return AllReduce()
            case "prediction":
                return Predictions(codec=TOP_K if codec == "top_k" else codec)
            case _:
                assert self.store is not None
                assert self.interval_steps is not None
                server = stores[self.store]
                return Checkpoints(
                    codec=codec,
                    interval_steps=self.interval_steps,
                    store=f"{server.url}/{run}",
                    environment=server.environment,
                )


def cases() -> Iterator[Case]:
    """Yield all of them, those of one link together."""
    for rate in BIT_RATES:
        for size in SIZES:
            for scheme in (
                "alone",
                "all_reduce",
                "prediction/exact",
                "prediction/bfloat16",
                "prediction/top_k",
            ):
                yield Case(rate=rate, size=size, scheme=scheme)
            for store, interval_steps in (("s3", 50), ("s3", 500), ("sftp", 50)):
                for codec in CODECS:
                    yield Case(
                        rate=rate,
                        size=size,
                        scheme=f"checkpoint/{codec}",
                        interval_steps=interval_steps,
                        store=store,
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A link that is cut while two train over it."""

    name: str
    """What it is called in the results."""
    scheme: str
    """As of `Case`."""
    how: str
    """As of `network.hosts.TwoHosts.cut`."""
    store: str | None = None
    """As of `Case`."""
    timeout_s: float | None = None
    """How long a rank waits for another; None for longer than the cut."""

    def way(self, stores: Mapping[str, StoreServer], run: str) -> Way:
        """Return how the peers train; arguments as of `Case.way`."""
        if self.timeout_s is not None:
            if self.scheme == "all_reduce":
                return AllReduce(timeout_s=self.timeout_s)
            return Predictions(codec="exact", timeout_s=self.timeout_s)
        interval_steps = None if self.store is None else 50
        case = Case(
            rate="100Mbit",
            size="small",
            scheme=self.scheme,
            interval_steps=interval_steps,
            store=self.store,
        )
        return case.way(stores, run)


def cuts() -> Iterator[Cut]:
    """Yield all of them; each at 100 Mbit/s with the small model and an interval of 50."""
    for store in ("s3", "sftp"):
        for how in ("silent", "down"):
            name = f"checkpoint, {store}, {how}"
            yield Cut(name=name, scheme="checkpoint/exact", how=how, store=store)
    for name, scheme in (("all_reduce", "all_reduce"), ("prediction", "prediction/exact")):
        yield Cut(name=f"{name}, patient", scheme=scheme, how="silent")
        yield Cut(name=f"{name}, impatient", scheme=scheme, how="silent", timeout_s=10.0)


def describe_sizes() -> dict[str, Any]:
    """Return what the results say of the sizes."""
    return {
        name: {
            "width": size.width,
            "classes": size.classes,
            "batch": size.batch,
            "parameters": size.parameters,
        }
        for name, size in SIZES.items()
    }
