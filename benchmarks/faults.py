"""Whether what is promised on failure holds when real processes are really killed.

    python benchmarks/faults.py --json docs/results/faults.json --page docs/failure.md

Four sections, each written to the JSON when it is done; a section that is there already is kept, so that the
command may be interrupted and repeated:

    kills      a publisher is killed at any instruction, and readers look at what it leaves
    flips      one bit of what it published is flipped
    outages    the store is away for half a minute or more
    soak       three peers train for long while one fault after the other happens, and without faults

Exits 1 if a promise was broken. Faults that need a disk of their own (a full one) are left out where this
process may not mount one.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults.page import is_kept, write_page

from codistill.lab import provenance
from faults import flips, kills, outages, soak


def main() -> int:
    """Run what is missing, write it down, and tell whether all promises were kept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--json", type=Path, required=True, help="the results: read, and written after each section"
    )
    parser.add_argument("--page", type=Path, help="also write the results here, as Markdown")
    parser.add_argument("--sections", nargs="*", default=["kills", "flips", "outages", "soak"])
    parser.add_argument("--again", action="store_true", help="run sections that are there already")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--outages", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak, with faults")
    parser.add_argument("--undisturbed-minutes", type=float, default=3.0, help="of each run without faults")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sections: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kills": lambda folder: asdict(
            kills.run(folder, count=arguments.kills, seed=arguments.seed, with_signals=True)
        ),
        "flips": lambda folder: _flip(folder, arguments.flips, arguments.seed),
        "outages": lambda folder: outages.run(folder, count=arguments.outages, seed=arguments.seed),
        "soak": lambda folder: soak.run(
            folder,
            minutes=arguments.minutes,
            undisturbed_minutes=arguments.undisturbed_minutes,
            seed=arguments.seed,
        ),
    }
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for name in arguments.sections:
        if name in results and not arguments.again:
            continue
        print(f"{name} ...", file=sys.stderr)
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            result = sections[name](Path(folder) / "run")
        results[name] = {**result, "load_before": load, "load_after": os.getloadavg()[0]}
        results["machine"], results["versions"] = provenance.machine(), provenance.versions()
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    if arguments.page is not None:
        arguments.page.write_text(write_page(results))
    return 0 if is_kept(results) else 1


def _flip(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Flip half of the bits of a run that is signed, half of one that is not."""
    folder.mkdir()
    key = folder / "key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    return {
        "seed": seed,
        "unsigned": asdict(flips.run(folder / "unsigned", count=count - count // 2, seed=seed)),
        "signed": asdict(flips.run(folder / "signed", count=count // 2, seed=seed, signing_key_file=key)),
    }


if __name__ == "__main__":
    sys.exit(main())
