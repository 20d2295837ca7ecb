"""Contract suites and fakes, for the tests of codistill and of whoever extends it.

This package needs pytest, which codistill itself does not: ``pip install pytest``.
"""

from codistill.testing.clock import FakeClock
from codistill.testing.exchanges import ExchangeContract
from codistill.testing.faulty_store import Faults, FaultyStore
from codistill.testing.inline_background import InlineBackground
from codistill.testing.losses import check_divergence
from codistill.testing.peers import connect_peers, run_peers
from codistill.testing.stores import StoreContract

__all__ = [
    "ExchangeContract",
    "FakeClock",
    "Faults",
    "FaultyStore",
    "InlineBackground",
    "StoreContract",
    "check_divergence",
    "connect_peers",
    "run_peers",
]
