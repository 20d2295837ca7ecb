import mmap
from pathlib import Path

import pytest
import torch

from codistill.lab import peak_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc on this system")
def test_the_peak_counts_what_is_no_longer_held_until_it_is_forgotten() -> None:
    peak_memory.forget(CPU)
    before = peak_memory.peak_bytes(CPU)
    # Pages of its own, which no allocator has kept from before.
    with mmap.mmap(-1, 64 << 20) as held:
        held.write(bytes(64 << 20))
    after = peak_memory.peak_bytes(CPU)
    assert after >= before + (60 << 20)
    peak_memory.forget(CPU)
    assert peak_memory.peak_bytes(CPU) <= after - (50 << 20)


def test_a_system_that_does_not_tell_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path / "no" / "such")
    peak_memory.forget(CPU)
    assert peak_memory.peak_bytes(CPU) is None
