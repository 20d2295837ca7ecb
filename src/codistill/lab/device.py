"""Where models live: from a name to a device of torch."""

import torch


def check_device(name: str) -> None:
    """Check that models can be trained on a device here.

    Args:
        name: "auto", "cpu", "cuda", or another device of torch.

    Raises:
        ValueError: If there is no such device.

    Example:
        >>> check_device("cpu")
        >>> check_device("abacus")
        Traceback (most recent call last):
            ...
        ValueError: device must be "auto", "cpu", "cuda" or another device of torch that can be computed \
on here, got 'abacus'. "auto" is CUDA where there is some, else the CPU.
    """
    if name != "auto" and not _is_there(name):
        raise ValueError(
            'device must be "auto", "cpu", "cuda" or another device of torch that can be computed on here, '
            f'got {name!r}. "auto" is CUDA where there is some, else the CPU.'
        )


def resolve_device(name: str, *, rank: int) -> torch.device:
    """Return the device that a rank trains on; "auto" is CUDA where there is some, else the CPU.

    Args:
        name: A name that `check_device` has let through.
        rank: Of the process within its peer; with "cuda" the ranks take turns on the devices.

    Example:
        >>> resolve_device("cpu", rank=1)
        device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device(name)


def _is_there(name: str) -> bool:
    try:
        device = torch.device(name)
        if device.type == "cuda":
            # Counted, not tried: a first tensor would keep memory on the device for as long as we live.
            return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError):
        # What torch raises for a name it does not know, a backend it was built without, or "meta".
        return False
    return True
