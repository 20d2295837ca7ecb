"""What training on two hosts sends over the link between them, and what becomes of it when the link is cut.

    python benchmarks/network.py --json docs/results/network.json --page docs/network.md

Makes two network namespaces, for which it has to be root. Every case is measured several times, in rounds;
each run is written to the JSON when it is done, and runs that are there already are kept, so that the command
may be interrupted and repeated. Exits 1 if a limit is missed, 2 if this process may not make the hosts.
"""

import argparse
import itertools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.processes import processes
from network.cases import SIZES, Case, Cut, cases, cuts, describe_sizes
from network.hosts import NotAllowedError, TwoHosts, two_hosts
from network.page import missed, write_page
from network.stores import Start, StoreServer, s3_store, sftp_store

from codistill.lab import provenance
from network import measurement, outage


def main() -> int:
    """Run what is missing, write it down, and tell whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--json", type=Path, required=True, help="the results: read, and written after each run"
    )
    parser.add_argument("--page", type=Path, help="also write the results here, as Markdown")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured")
    parser.add_argument("--only", default="", help="cases and cuts in whose name this pattern is found")
    parser.add_argument("--again", action="store_true", help="forget the runs that are there of these")
    parser.add_argument("--cut-s", type=float, default=20.0, help="for how long the link is cut")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    chosen = [case for case in cases() if re.search(arguments.only, case.key)]
    to_cut = [cut for cut in cuts() if re.search(arguments.only, cut.name)]
    if arguments.again:
        for kind, names in (("cases", [case.key for case in chosen]), ("cuts", [cut.name for cut in to_cut])):
            for name in names:
                results.get(kind, {}).pop(name, None)
    try:
        _run(results, chosen, to_cut, arguments)
    except NotAllowedError as error:
        print(f"There are no two hosts to be had here: {error}", file=sys.stderr)
        return 2
    if arguments.page is not None:
        arguments.page.write_text(write_page(results))
    found = missed(results)
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


def _run(
    results: dict[str, Any], chosen: list[Case], to_cut: list[Cut], arguments: argparse.Namespace
) -> None:
    """Measure what is missing."""
    for number in range(1, arguments.rounds + 1):
        todo = [case for case in chosen if len(results.get("cases", {}).get(case.key, [])) < number]
        for rate, group in itertools.groupby(todo, key=lambda case: case.rate):
            with _laboratory(rate) as (start, hosts, stores):
                for case in group:
                    print(f"round {number}, {case.key} ...", file=sys.stderr)
                    way = case.way(stores, _new_run())
                    run = measurement.measure(start, hosts, SIZES[case.size], way, steps=case.steps)
                    results.setdefault("cases", {}).setdefault(case.key, []).append(run)
                    _write(results, arguments.json)
    missing = [cut for cut in to_cut if cut.name not in results.get("cuts", {})]
    if missing:
        with _laboratory("100Mbit") as (start, hosts, stores):
            for cut in missing:
                print(f"cut, {cut.name} ...", file=sys.stderr)
                results.setdefault("cuts", {})[cut.name] = outage.run(
                    start,
                    hosts,
                    SIZES["small"],
                    cut.way(stores, _new_run()),
                    how=cut.how,
                    cut_s=arguments.cut_s,
                    calm_s=30.0,
                )
                _write(results, arguments.json)


@contextmanager
def _laboratory(rate: str) -> Iterator[tuple[Start, TwoHosts, dict[str, StoreServer]]]:
    """Yield what starts processes, the hosts, and the stores on host a."""
    with (
        processes() as start,
        two_hosts(rate) as hosts,
        tempfile.TemporaryDirectory() as folder,
        s3_store(start, hosts.a) as s3,
        sftp_store(hosts.a, Path(folder)) as sftp,
    ):
        yield start, hosts, {"s3": s3, "sftp": sftp}


def _new_run() -> str:
    return f"run-{time.time_ns()}"


def _write(results: dict[str, Any], path: Path) -> None:
    results["machine"], results["versions"] = provenance.machine(), provenance.versions()
    results["sizes"] = describe_sizes()
    results.setdefault("loads", []).append(round(os.getloadavg()[0], 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
