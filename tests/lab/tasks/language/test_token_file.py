from pathlib import Path

import numpy as np
import pytest
import torch

from codistill.lab.tasks.language.token_file import TokenFile, write_tokens
from codistill.lab.tasks.language.windows import windows


def test_windows_are_those_of_the_same_text_in_memory(tmp_path: Path) -> None:
    stream = np.random.default_rng(0).integers(0, 1 << 16, size=1000).astype(np.int32)
    path = tmp_path / "deep" / "a.tokens"
    write_tokens(path, [stream[:300], stream[300:300], stream[300:]])
    read, expected = TokenFile(path, positions=9), windows(stream, positions=9)
    assert len(read) == len(expected) == 111
    rows = torch.tensor([110, 0, 5, 5])
    for one, other in zip(read.batch(rows), expected.batch(rows), strict=True):
        assert isinstance(one, torch.Tensor)
        assert one.dtype == torch.int64
        assert torch.equal(one, other)
    assert read.to(torch.device("cpu")) is read
    assert path.stat().st_size == 2000


def test_a_file_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    write_tokens(path, [np.arange(10, dtype=np.int32)])
    write_tokens(path, (pytest.fail("made again") for _ in range(1)))


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def parts():
        yield np.arange(10, dtype=np.int32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "a.tokens", parts())
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(OSError, match=r"cache folder must be writable, .* Set XDG_CACHE_HOME"):
        write_tokens(tmp_path / "cache" / "a.tokens", [np.arange(10, dtype=np.int32)])


def test_a_text_that_fills_no_window_is_refused(tmp_path: Path) -> None:
    write_tokens(tmp_path / "a.tokens", [np.arange(3, dtype=np.int32)])
    with pytest.raises(ValueError, match="tokens must be more than the 8 positions of a window, got 3"):
        TokenFile(tmp_path / "a.tokens", positions=8)
