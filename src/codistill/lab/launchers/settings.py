"""What a user says of a job in the words of the system that runs it: ``KEY=VALUE``."""

from collections.abc import Collection, Mapping, Sequence

from codistill.errors import RecipeError


def read_settings(words: Sequence[str], *, known: Collection[str], on: str) -> dict[str, str]:
    """Return settings by key.

    Args:
        words: ``KEY=VALUE`` each.
        known: The keys there are.
        on: Name of the launcher, for messages.

    Raises:
        RecipeError: If a word has another form, a key is not known, or one is given twice.

    Example:
        >>> read_settings(["time=30", "mem=8G"], known=["mem", "time"], on="slurm")
        {'time': '30', 'mem': '8G'}
    """
    found: dict[str, str] = {}
    for word in words:
        key, is_given, value = word.partition("=")
        if not known:
            raise RecipeError(f"job must be left out on {on}, which has no settings, got {word!r}.")
        if key not in known:
            raise RecipeError(
                f"job must be made of KEY=VALUE with a key of {on}, got {word!r}. "
                f"Choose among {', '.join(sorted(known))}."
            )
        if not is_given or not value:
            raise RecipeError(f"job must be made of KEY=VALUE, got {word!r}. Say {key}=...")
        if key in found:
            raise RecipeError(f"job must name {key} once, got {found[key]!r} and {value!r}.")
        found[key] = value
    return found


def whole_number(settings: Mapping[str, str], key: str, *, minimum: int, default: int) -> int:
    """Return a setting that is a whole number.

    Raises:
        RecipeError: If it is none, or below ``minimum``.

    Example:
        >>> whole_number({"nodes": "2"}, "nodes", minimum=1, default=1)
        2
    """
    text = settings.get(key, str(default))
    # No sign but minus, no blanks, no underscores.
    if not (text.isascii() and text.removeprefix("-").isdigit() and int(text) >= minimum):
        raise RecipeError(f"{key} must be a whole number >= {minimum}, got {text!r}.")
    return int(text)
