"""Train recipes: every peer a job of its own, runs in turn, what is finished already left alone."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from codistill.errors import RecipeError, RunExistsError
from codistill.extras import check_installed
from codistill.lab import methods, results, tasks, trackers
from codistill.lab.checkpoint import CHECKPOINT
from codistill.lab.data_root import data_root
from codistill.lab.device import check_device
from codistill.lab.folder import RunFolder
from codistill.lab.job import Job, save_job
from codistill.lab.launchers.base import Launcher
from codistill.lab.launchers.local import LocalLauncher
from codistill.lab.launchers.slurm import SlurmLauncher
from codistill.lab.methods.base import Plan
from codistill.lab.recipe import Recipe
from codistill.lab.results import PeerResult
from codistill.stores import open_store
from codistill.stores.urls import SCHEME, split_url

REPORT_PACKAGES = ("scipy", "matplotlib", "jinja2")
"""What the report needs: better missed before training than after."""

# As `RunFolder.logs_path` has it, for a folder that is not there yet.
_LOGS = "logs"

OnProgress = Callable[[str, int, int], None]
"""Called with the label of an arm, its updates done, and its updates in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """Where and how jobs run; nothing here changes what is trained."""

    data_root: Path | None = None
    """Folder that holds the data sets' folders; `codistill.lab.data_root` if not given."""
    device: str = "auto"
    """"auto", "cpu", "cuda", or another device of torch."""
    read_test: bool = True
    """Whether the test set is read, at the end of each run; a search leaves it alone."""
    keep_exchange: Literal["all", "first", "none"] = "all"
    """Of which runs the store of the peers is kept: all, that of the first seed, or none."""
    peer: str | None = None
    """The only peer to train here; None for all of them."""
    trackers: tuple[str, ...] = ()
    """Where metrics are shown besides ``metrics.jsonl``: names of `codistill.lab.trackers`."""
    cores: int | None = None
    """Cores that the processes share; all of the machine's if not given."""
    logs: str = ""
    """Name of a folder for logs within that of the arm's, where several launches run at once."""
    store: str | None = None
    """Path or URL where that peer meets the others, which are started elsewhere; a run has one of its own."""
    launcher: Launcher = field(default_factory=LocalLauncher)
    """What starts the jobs, and where."""


def check(recipes: Sequence[Recipe], *, options: LaunchOptions | None = None) -> None:
    """Check that recipes can be trained here, before a folder is made for them; decode their data if need be.

    Raises:
        RecipeError: If a recipe cannot be trained, or not by the peer and store that are asked for.
        ValueError: If there is no such device or kind of store.
        StoreError: If the store cannot be written.
        DataMissingError: If the data of a task are not there.
        ExtraMissingError: If a package that reads them or the store, or one that the report or the launcher
            needs, is not installed.
    """
    options = options or LaunchOptions()
    for package in REPORT_PACKAGES:
        check_installed(package, "lab")
    if options.launcher.is_here:
        check_device(options.device)
    trackers.check(options.trackers)
    for recipe in recipes:
        methods.method(recipe.method).plan(recipe)
        _check_peer(recipe, options)
        options.launcher.check(recipe)
        for name in {recipe.model, *recipe.peer_models} - {None}:
            _check_model(recipe, name)
    if recipes and options.store is not None:
        _check_store(options.store, runs=len(recipes))
    for task in sorted({recipe.task for recipe in recipes}):
        tasks.task_class(task).prepare(data_root(options.data_root))


def check_unused(out: Path, recipes: Sequence[Recipe], *, options: LaunchOptions) -> None:
    """Check that no job that an earlier call has started still writes to a folder.

    Args:
        out: The results folder; need not be there.
        recipes: What it would be overwritten with.
        options: Where and how.

    Raises:
        RunExistsError: If one does.
    """
    for recipe in recipes:
        for job in _jobs(out, [recipe], _plan([recipe], options), options):
            if options.launcher.is_running(job):
                raise RunExistsError(
                    f"out must be a folder that no job writes to, got {out}: the job of peer {job.peer!r} "
                    "still runs or waits to. End it first, or pass --resume to wait for it.",
                    peer=job.peer,
                )


def scripts(out: Path, recipe: Recipe, *, options: LaunchOptions) -> dict[str, str]:
    """Return what `launch` would submit to Slurm, by peer; nothing is written or submitted.

    Args:
        out: The results folder; need not be there.
        recipe: What to train.
        options: Where and how, as `check` has let them through.

    Raises:
        RecipeError: If the launcher is not Slurm's.
    """
    if not isinstance(options.launcher, SlurmLauncher):
        raise RecipeError(
            f"dry_run must be left out on {options.launcher.name}, which has no scripts. Pass --on slurm."
        )
    plan = _plan([recipe], options)
    return options.launcher.scripts(_jobs(out, [recipe], plan, options), ranks=plan.processes)


def launch(
    folder: RunFolder,
    recipes: Sequence[Recipe],
    *,
    options: LaunchOptions | None = None,
    on_progress: OnProgress | None = None,
) -> list[PeerResult]:
    """Train recipes in turn, each peer in a job of its own; skip what the folder has already.

    With ``options.peer`` the others are trained by other calls, each with a folder of its own. A peer that
    has a checkpoint goes on from there. If a peer fails, the others are ended. If this function is
    interrupted, so are all on this machine or in Ray; those of Slurm go on, and a second call finds them.

    Args:
        folder: The results folder.
        recipes: What to train, of the same number of peers and ranks in the same arrangement, each with its
            own label or seed; what has to be trained before has been.
        options: Where and how.
        on_progress: Called several times a second, for the arm being trained and for those that finish.

    Returns:
        The results of all peers of all recipes, in order; of those that are trained here.

    Raises:
        RecipeError, StoreError, DataMissingError, ExtraMissingError: As for `check`.
        ValueError: If the recipes differ in peers or ranks, or there is no such device.
        JobError: If a job fails; the message says what hindered it, or ends with its traceback.

    **Blocks**: until all have finished.

    **On failure**: results and checkpoints written so far stay, and a second call goes on from them.
    """
    options = options or LaunchOptions()
    plan = _plan(recipes, options)
    runs = _Runs(folder, recipes, plan, options)
    left = runs.unfinished()
    check(left, options=options)
    if left:
        options.launcher.check_system()
        jobs = _jobs(folder.path, left, plan, options)
        running = {job.peer for job in jobs if options.launcher.is_running(job)}
        if not running:
            for recipe in left:
                runs.prepare(recipe)
        _write([job for job in jobs if job.peer not in running], ranks=plan.processes)
        options.launcher.run(
            [job for job in jobs if job.peer in running or job.unfinished()],
            ranks=plan.processes,
            on_poll=lambda: runs.report(on_progress),
            cores=options.cores,
        )
    runs.report(on_progress)
    return [folder.result(recipe.label, recipe.seed, peer) for recipe in recipes for peer in plan.peers]


def _plan(recipes: Sequence[Recipe], options: LaunchOptions) -> Plan:
    """Return which jobs are started here."""
    plans = [methods.method(recipe.method).plan(recipe) for recipe in recipes]
    shapes = {plan.shape for plan in plans}
    if len(shapes) != 1:
        raise ValueError(
            f"recipes must have the same peers, ranks and arrangement, got {len(shapes)} different ones. "
            "Launch them one after another."
        )
    return plans[0] if options.peer is None else replace(plans[0], peers=(options.peer,))


def _check_peer(recipe: Recipe, options: LaunchOptions) -> None:
    method = methods.method(recipe.method)
    plan = method.plan(recipe)
    peers = plan.peers
    if options.peer is not None and (plan.arrangement != "apart" or method.earlier(recipe) is not None):
        raise RecipeError(
            f"peer must be left out under method {recipe.method!r}, whose models are not jobs that can be "
            f"started one by one, got {options.peer!r}. Train recipe {recipe.name!r} as a whole."
        )
    if options.peer is None and options.store is not None:
        raise RecipeError(
            f"peer must be given with a store, got none. Choose one of {', '.join(peers)} to train here; "
            "peers that are all trained here meet in the results folder."
        )
    if options.peer is None:
        return
    if options.peer not in peers:
        raise RecipeError(
            f"peer must be one of {', '.join(peers)}, got {options.peer!r}. "
            f"Recipe {recipe.name!r} has no other under method {recipe.method!r}."
        )
    if method.uses_store and options.store is None:
        raise RecipeError(
            f"store must be given with peer {options.peer!r}, got none. "
            "Name a folder or URL that the jobs of all peers see."
        )
    if not method.uses_store and options.store is not None:
        raise RecipeError(
            f"store must be left out under method {recipe.method!r}, whose models never meet, got one."
        )


def _check_model(recipe: Recipe, name: str | None) -> None:
    there = tasks.task_class(recipe.task).models
    if name not in there:
        raise RecipeError(
            f"model must be one of {', '.join(there)} for task {recipe.task!r}, got {name!r}. "
            f"Change it in recipe {recipe.name!r}."
        )


def _check_store(store: str, *, runs: int) -> None:
    if runs > 1:
        raise RecipeError(f"store must be of one run, got {runs} runs for it. Launch them one after another.")
    match = SCHEME.match(store)
    if match is not None and match[1].lower() == "memory":
        raise RecipeError(
            "store must be seen by the jobs of all peers, got memory://, which ends with a process. "
            "Name a folder they share, or an object store."
        )
    # What a job is told, and the command line, stay in the results folder.
    if match is not None and match[1].lower() != "file" and ":" in (split_url(store).credentials or ""):
        raise RecipeError(
            "store must hold no password in its URL, got one, which would be written into the results. "
            "Use a key or the environment."
        )
    open_store(store).close()


class _Runs:
    """The runs of one launch, and how far they have come."""

    def __init__(
        self, folder: RunFolder, recipes: Sequence[Recipe], plan: Plan, options: LaunchOptions
    ) -> None:
        self._folder, self._recipes, self._plan, self._options = folder, recipes, plan, options
        # Runs before this one have finished and are looked at no more.
        self._current = 0
        self._done: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        for recipe in recipes:
            self._total[recipe.label] += recipe.updates

    def unfinished(self) -> list[Recipe]:
        return [recipe for recipe in self._recipes if not self._has_finished(recipe)]

    def prepare(self, recipe: Recipe) -> None:
        """Clear away what a run left that cannot be gone on from."""
        folders = [self._peer_path(recipe, peer) for peer in self._plan.peers]
        if not all((path / results.RESULT).exists() or (path / CHECKPOINT).exists() for path in folders):
            shutil.rmtree(self._folder.seed_path(recipe.label, recipe.seed), ignore_errors=True)

    def report(self, on_progress: OnProgress | None) -> None:
        """Tell how far the runs have come, and clear away what is not to be kept."""
        while self._current < len(self._recipes) and self._has_finished(self._recipes[self._current]):
            finished = self._recipes[self._current]
            self._discard_exchange(finished)
            self._done[finished.label] += finished.updates
            self._current += 1
            self._tell(on_progress, finished.label, 0)
        if self._current < len(self._recipes):
            recipe = self._recipes[self._current]
            self._tell(on_progress, recipe.label, self._updates_done(recipe))

    def _tell(self, on_progress: OnProgress | None, label: str, updates: int) -> None:
        if on_progress is not None:
            on_progress(label, self._done[label] + updates, self._total[label])

    def _updates_done(self, recipe: Recipe) -> int:
        rows = 0
        for peer in self._plan.peers:
            path = self._peer_path(recipe, peer) / results.METRICS
            rows += path.read_bytes().count(b"\n") if path.exists() else 0
        return min(rows * recipe.evaluate_every // len(self._plan.peers), recipe.updates)

    def _has_finished(self, recipe: Recipe) -> bool:
        return all((self._peer_path(recipe, peer) / results.RESULT).exists() for peer in self._plan.peers)

    def _discard_exchange(self, recipe: Recipe) -> None:
        if methods.method(recipe.method).keeps_store:
            return
        keep = self._options.keep_exchange
        if keep == "none" or (keep == "first" and recipe.seed != self._folder.seeds[0]):
            path = self._folder.exchange_path(recipe.label, recipe.seed)
            shutil.rmtree(path, ignore_errors=True)

    def _peer_path(self, recipe: Recipe, peer: str) -> Path:
        return self._folder.peer_path(recipe.label, recipe.seed, peer)


def _jobs(out: Path, recipes: Sequence[Recipe], plan: Plan, options: LaunchOptions) -> list[Job]:
    return [
        Job(
            peer=peers[0],
            others=peers[1:],
            recipes=tuple(recipes),
            out=out.resolve(),
            logs=(out / recipes[0].label / _LOGS / options.logs).resolve(),
            data_root=data_root(options.data_root).resolve(),
            device=options.device,
            read_test=options.read_test,
            store=options.store,
            trackers=options.trackers,
        )
        for peers in plan.jobs
    ]


def _write(jobs: Sequence[Job], *, ranks: int) -> None:
    for job in jobs:
        job.logs.mkdir(parents=True, exist_ok=True)
        for rank in range(ranks):
            job.traceback_path(rank).unlink(missing_ok=True)
            job.error_path(rank).unlink(missing_ok=True)
        save_job(job)
