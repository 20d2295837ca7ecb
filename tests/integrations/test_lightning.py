"""Peers under Lightning's trainer, in threads of this process, against loops written out."""

import copy
import importlib
import importlib.util
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import tqdm.std
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import codistill.integrations.lightning
from codistill import CheckpointExchange, Codistiller, Membership, PredictionExchange, load_snapshot
from codistill.errors import CodistillWarning, ExtraMissingError, PeerMissingError
from codistill.exchange.checkpoint.lives import read_status
from codistill.exchange.checkpoint.lockstep import Lockstep
from codistill.integrations.lightning import CodistillationCallback
from codistill.stores import MemoryStore, Store
from codistill.testing import FakeClock, connect_peers, run_peers

CLASSES = 5
WEIGHT = 0.7
BATCHES = 5

pytestmark = [
    # Said of any loader without worker processes, by lightning 2.6.
    pytest.mark.filterwarnings("ignore:The '[a-z]*_dataloader' does not have many workers"),
    # Of modules that could be validated, and are not in most tests.
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    # lightning 2.6 flattens batches with what torch 2.13 calls by another name.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
]


class HastyClock:
    """The real clock, but nobody sleeps for long: a name that was not closed is watched for 15 s."""

    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.001))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_net(peer: str) -> nn.Sequential:
    torch.manual_seed(ord(peer))
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, CLASSES))


def samples(peer: str) -> TensorDataset:
    inputs = torch.randn(BATCHES * 8, 6, generator=torch.Generator().manual_seed(ord(peer)))
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))


class Task(LightningModule):
    """An ordinary module, but that it returns its logits."""

    def __init__(self, peer: str = "a", *, net: nn.Module | None = None) -> None:
        super().__init__()
        self.peer = peer
        self.net = make_net(peer) if net is None else net
        self.losses: list[float] = []
        self.validation_losses: list[tuple[float, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        logits = self.net(inputs)
        return {"loss": cross_entropy(logits, targets), "logits": logits}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        # Through the method that is wrapped in training.
        loss = self.training_step(batch, batch_idx)["loss"]
        self.validation_losses.append((loss.item(), float(cross_entropy(self.net(batch[0]), batch[1]))))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.training_step(batch, batch_idx)["logits"]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]) * self.trainer.accumulate_grad_batches)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.net)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(samples(self.peer), batch_size=8)


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)


def make_trainer(*callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, "enable_checkpointing": False, "max_epochs": 2, **options},
    )


def lockstep(store: Store, peer: str) -> CheckpointExchange:
    exchange = CheckpointExchange(
        store, peer=peer, peers=["a", "b"], interval_steps=1, lockstep=Lockstep(timeout_s=20)
    )
    exchange.clock = HastyClock()
    return exchange


def alone(store: Store | None = None) -> CheckpointExchange:
    return CheckpointExchange(MemoryStore() if store is None else store, peer="a")


def store_with_a_finished_peer() -> MemoryStore:
    """Return a store where b, which nobody has to wait for, has left its weights."""
    store, net = MemoryStore(), make_net("b")
    with Codistiller(net, CheckpointExchange(store, peer="b")) as codistiller:
        inputs = torch.zeros(1, 6)
        codistiller.loss(net.eval()(inputs), inputs)
        codistiller.step(samples=1000)
    return store


# --- the same training as without the trainer ---


def plain_loop(
    net: nn.Module,
    exchange: CheckpointExchange,
    peer: str,
    *,
    accumulate_grad_batches: int = 1,
    gradient_clip_val: float | None = None,
    precision: str = "32-true",
) -> list[float]:
    """Train two epochs; return the losses."""
    losses, optimizer = [], make_optimizer(net)
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    with Codistiller(net, exchange, weight=WEIGHT) as codistiller:
        for _ in range(2):
            for number, (inputs, targets) in enumerate(DataLoader(samples(peer), batch_size=8), start=1):
                with autocast:
                    logits = net(inputs)
                    loss = cross_entropy(logits, targets) + codistiller.loss(logits, inputs)
                (loss / accumulate_grad_batches).backward()
                losses.append(loss.item())
                if number % accumulate_grad_batches and number < BATCHES:
                    continue
                if gradient_clip_val is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), gradient_clip_val)
                optimizer.step()
                optimizer.zero_grad()
                codistiller.step()
    return losses


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.05},
        {"precision": "bf16-mixed"},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.05, "precision": "bf16-mixed"},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_losses_and_weights_are_those_of_a_plain_loop(options: dict[str, Any]) -> None:
    store = MemoryStore()
    nets = {peer: make_net(peer) for peer in "ab"}
    expected = run_peers(lambda peer: plain_loop(nets[peer], lockstep(store, peer), peer, **options), "ab")

    other_store = MemoryStore()
    tasks = {peer: Task(peer) for peer in "ab"}

    def fit(peer: str) -> CodistillationCallback:
        callback = CodistillationCallback(lockstep(other_store, peer), weight=WEIGHT)
        make_trainer(callback, **options).fit(tasks[peer])
        return callback

    callbacks = run_peers(fit, "ab")
    for peer, task in tasks.items():
        assert len(task.losses) == 2 * BATCHES
        torch.testing.assert_close(task.losses, expected[peer], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(task.net.state_dict(), nets[peer].state_dict(), rtol=1e-5, atol=1e-5)
        # One step an optimizer step; Lightning makes one more at the end of an epoch.
        steps = 2 * -(-BATCHES // options.get("accumulate_grad_batches", 1))
        report = callbacks[peer].report
        assert (report.step, report.samples) == (steps, 2 * BATCHES * 8)
        assert report.teacher_share == 1.0
        _, info = load_snapshot(other_store, peer)
        assert (info.step, info.finished) == (steps, True)


class Whole(Task):
    """A module that is the model, as Lightning's own examples are."""

    def __init__(self, peer: str) -> None:
        super().__init__(peer, net=nn.Identity())
        self.first, self.norm, self.middle, self.last = make_net(peer)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.middle(self.norm(self.first(inputs))))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self(batch[0])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self)


def test_a_module_that_is_the_student_itself_learns_as_its_parts_do_elsewhere() -> None:
    stores = {Task: MemoryStore(), Whole: MemoryStore()}

    def fit(kind: type[Task]) -> dict[str, list[float]]:
        tasks = {peer: kind(peer) for peer in "ab"}

        def fit_peer(peer: str) -> list[float]:
            task = tasks[peer]
            model = None if kind is Whole else "net"
            callback = CodistillationCallback(lockstep(stores[kind], peer), model=model, weight=WEIGHT)
            make_trainer(callback).fit(task)
            assert callback.report.teacher_share == 1.0
            return task.losses

        return run_peers(fit_peer, "ab")

    assert fit(Whole) == fit(Task)
    weights, _ = load_snapshot(stores[Whole], "a")
    assert Whole("b").load_state_dict(weights)


def test_another_module_than_the_logits_come_from_is_refused_before_anybody_is_waited_for() -> None:
    exchange = CheckpointExchange(MemoryStore(), peer="a", membership=Membership(start_with_peers=1))
    message = r"got 'first', whose output is \[8, 12\] where the logits are \[8, 5\]\. Name another"
    whole = Whole("a")
    with pytest.raises(ValueError, match=message):
        make_trainer(CodistillationCallback(exchange, model="first")).fit(whole)
    assert not whole.first._forward_hooks


def test_logits_that_are_made_of_the_student_s_output_are_no_mistake() -> None:
    class Halved(Task):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self.net(batch[0])[:, :3]
            return {"loss": cross_entropy(logits, batch[1] % 3), "logits": logits}

    callback = CodistillationCallback(
        alone(store_with_a_finished_peer()), outputs_to_logits=lambda logits: logits[:, :3]
    )
    make_trainer(callback).fit(Halved())
    assert callback.report.teacher_share == 1.0


def test_a_module_that_is_the_student_itself_and_was_compiled_is_refused() -> None:
    task = torch.compile(Whole("a"), backend="eager")
    with pytest.raises(ValueError, match=r"model must name a part of a Whole that was compiled .*, got None"):
        make_trainer(CodistillationCallback(alone(), model=None)).fit(task)


@pytest.mark.parametrize("whole", [False, True], ids=["student", "module"])
def test_a_compiled_student_and_a_compiled_module_learn_the_same(whole: bool) -> None:
    def losses(make: Callable[[Task], Any]) -> list[float]:
        task = Task("a")
        callback = CodistillationCallback(alone(store_with_a_finished_peer()), weight=WEIGHT)
        make_trainer(callback).fit(make(task))
        assert callback.report.teacher_share == 1.0
        return task.losses

    def compile_student(task: Task) -> Task:
        task.net = torch.compile(task.net, backend="eager")
        return task

    compiled = losses((lambda task: torch.compile(task, backend="eager")) if whole else compile_student)
    torch.testing.assert_close(compiled, losses(lambda task: task), rtol=1e-5, atol=1e-5)


def test_a_module_that_was_compiled_gets_its_compiled_training_step_back() -> None:
    task = Task("a")
    compiled = torch.compile(task, backend="eager")
    trainer = make_trainer(CodistillationCallback(alone()), max_epochs=1)
    trainer.fit(compiled)
    assert task.training_step is not None
    assert vars(task)["training_step"] is not task._compiler_ctx["original_training_step"]
    assert "codistill" not in vars(task)["training_step"].__module__


# --- going on from the trainer's checkpoint ---


class Death(Callback):
    """Ends a run in the middle of an epoch."""

    def __init__(self, at_step: int) -> None:
        self.at_step = at_step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.at_step:
            raise RuntimeError("killed")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_killed_and_resumed_run_in_lockstep_is_the_same_to_the_bit(tmp_path: Path) -> None:
    undisturbed = {peer: Task(peer) for peer in "ab"}
    store = MemoryStore()
    run_peers(
        lambda peer: make_trainer(
            CodistillationCallback(lockstep(store, peer), weight=WEIGHT), max_epochs=4
        ).fit(undisturbed[peer]),
        "ab",
    )

    store = MemoryStore()
    tasks = {peer: Task(peer) for peer in "ab"}

    def train_and_die(peer: str) -> None:
        checkpoint = ModelCheckpoint(tmp_path / peer, filename="{epoch}", save_top_k=-1)
        trainer = make_trainer(
            CodistillationCallback(lockstep(store, peer), weight=WEIGHT),
            # After two epochs and a part of the third.
            Death(at_step=2 * BATCHES + 2),
            checkpoint,
            enable_checkpointing=True,
            max_epochs=4,
        )
        with pytest.raises(RuntimeError, match="killed"):
            trainer.fit(tasks[peer])

    run_peers(train_and_die, "ab")

    def resume(peer: str) -> tuple[Task, CodistillationCallback]:
        callback = CodistillationCallback(lockstep(store, peer), weight=WEIGHT)
        task = Task(peer)
        path = tmp_path / peer / "epoch=1.ckpt"
        trainer = make_trainer(
            callback,
            ModelCheckpoint(tmp_path / peer, filename="again"),
            enable_checkpointing=True,
            max_epochs=4,
        )
        trainer.fit(task, ckpt_path=path, weights_only=True)
        return task, callback

    for peer, (task, callback) in run_peers(resume, "ab").items():
        # Resumed, not begun again.
        assert callback.report.step == 4 * BATCHES
        assert callback.report.samples == 4 * BATCHES * 8
        assert task.losses == undisturbed[peer].losses[2 * BATCHES :]
        for name, tensor in task.net.state_dict().items():
            assert torch.equal(tensor, undisturbed[peer].net.state_dict()[name]), name


def test_a_checkpoint_saved_after_the_fit_is_resumed_from(tmp_path: Path) -> None:
    store = MemoryStore()
    trainer = make_trainer(CodistillationCallback(alone(store)), max_epochs=1)
    trainer.fit(Task("a"))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    callback = CodistillationCallback(alone(store))
    make_trainer(callback, max_epochs=2).fit(Task("a"), ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    assert callback.report.step == 2 * BATCHES


def test_a_checkpoint_without_the_callback_starts_a_new_peer_and_says_so(tmp_path: Path) -> None:
    trainer = make_trainer(max_epochs=1)
    trainer.fit(Task("a"))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    callback = CodistillationCallback(alone())
    with pytest.warns(CodistillWarning, match=f"from step {BATCHES}, .* starts at step 0 of its run"):
        make_trainer(callback, max_epochs=2).fit(Task("a"), ckpt_path=tmp_path / "plain.ckpt")
    assert callback.report.step == BATCHES


def test_validating_with_a_checkpoint_does_not_resume_from_it(tmp_path: Path) -> None:
    trainer = make_trainer(CodistillationCallback(alone()), max_epochs=1)
    trainer.fit(Task("a"))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    callback = CodistillationCallback(alone())
    trainer, task = make_trainer(callback, max_epochs=1), Task("a")
    loader = DataLoader(samples("c"), batch_size=8)
    trainer.validate(task, loader, ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    trainer.fit(task)
    assert callback.report.step == BATCHES


# --- what is left alone ---


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether autograd was on, at each time that teachers were asked."""
    calls: list[bool] = []
    predict = CheckpointExchange.predict

    def counting(self: CheckpointExchange, inputs: Any, logits: Tensor | None) -> Any:
        calls.append(torch.is_grad_enabled())
        return predict(self, inputs, logits)

    monkeypatch.setattr(CheckpointExchange, "predict", counting)
    return calls


def test_only_training_asks_teachers(asked: list[bool]) -> None:
    task, loader = Task("a"), DataLoader(samples("c"), batch_size=8)
    callback = CodistillationCallback(alone(store_with_a_finished_peer()))
    asked.clear()
    trainer = make_trainer(callback, num_sanity_val_steps=2, max_epochs=2)
    trainer.fit(task, val_dataloaders=loader)
    assert asked == 2 * BATCHES * [True]
    trainer.validate(task, loader)
    trainer.test(task, loader)
    trainer.predict(task, loader)
    assert len(asked) == 2 * BATCHES
    assert len(task.validation_losses) == 2 + 4 * BATCHES
    assert all(through_step == direct for through_step, direct in task.validation_losses)
    assert "training_step" not in vars(task)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_tuner_s_trial_runs_are_no_part_of_the_training(
    asked: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The finder's progress bar would leave a thread that watches it.
    monkeypatch.setattr(tqdm.std.tqdm, "monitor_interval", 0)

    class Tunable(Task):
        lr = 0.1

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net.parameters(), lr=self.lr)

    callback = CodistillationCallback(alone(store_with_a_finished_peer()))
    asked.clear()
    finder = LearningRateFinder(num_training_steps=3)
    trainer = make_trainer(callback, finder, max_epochs=1, default_root_dir=tmp_path, log_every_n_steps=1)
    trainer.fit(Tunable("a"))
    assert finder.optimal_lr is not None
    assert len(asked) == BATCHES
    assert (callback.report.step, callback.report.teacher_share) == (BATCHES, 1.0)


def test_after_an_exception_nothing_more_is_published_and_the_module_is_as_it_was() -> None:
    store, task = MemoryStore(), Task("a")
    exchange = CheckpointExchange(store, peer="a", interval_steps=1, lockstep=True, peers=["a"])
    callback = CodistillationCallback(exchange)
    with pytest.raises(RuntimeError, match="killed"):
        make_trainer(callback, Death(at_step=3)).fit(task)
    assert "training_step" not in vars(task)
    _, info = load_snapshot(store, "a")
    assert (info.step, info.finished) == (3, False)


def test_one_callback_serves_one_fit() -> None:
    trainer, task = make_trainer(CodistillationCallback(alone()), max_epochs=1), Task("a")
    trainer.fit(task)
    with pytest.raises(RuntimeError, match=r"must serve one fit, got a second\. Make a new exchange"):
        trainer.fit(task)


def test_a_fit_that_has_nothing_to_do_leaves_the_callback_for_the_next() -> None:
    callback, task = CodistillationCallback(alone()), Task("a")
    make_trainer(callback, max_epochs=0).fit(task)
    assert callback.report is None
    make_trainer(callback, max_epochs=1).fit(task)
    assert callback.report.step == BATCHES


# --- batches, masks, shapes ---


def test_the_student_may_lie_deeper_and_batches_may_be_of_any_kind() -> None:
    class Nested(Task):
        def __init__(self) -> None:
            super().__init__("a", net=nn.ModuleDict({"part": make_net("a")}))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self.net["part"](batch["x"])
            return {"loss": cross_entropy(logits, batch["y"]), "logits": logits}

        def train_dataloader(self) -> DataLoader:
            return DataLoader([{"x": x, "y": y} for x, y in samples("a")], batch_size=8)

    callback = CodistillationCallback(
        alone(store_with_a_finished_peer()), model="net.part", inputs=lambda batch: batch["x"]
    )
    make_trainer(callback, max_epochs=1).fit(Nested())
    assert callback.report.teacher_share == 1.0


class ByName(nn.Module):
    """Predicts a class at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, *, features: Tensor) -> Tensor:
        return self.head(features)


class Positions(Task):
    """Sequences of four positions, as mappings, of which some positions do not count."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        super().__init__("a", net=ByName())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(features=batch["features"])
        loss = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)
        return {"loss": loss, "logits": logits, "mask": batch["labels"] != -100, "seen": 1}

    def train_dataloader(self) -> DataLoader:
        inputs = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(0))
        labels = inputs[..., :CLASSES].argmax(-1)
        labels[:, 3] = -100
        rows = [{"features": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]
        return DataLoader(rows, batch_size=8)


def test_mappings_lose_their_labels_and_masked_positions_do_not_count() -> None:
    store, teacher = MemoryStore(), ByName()
    with Codistiller(teacher, CheckpointExchange(store, peer="b")) as codistiller:
        features = torch.zeros(1, 4, 6)
        codistiller.loss(teacher(features=features), {"features": features})
        codistiller.step(samples=1000)
    task = Positions()
    before = copy.deepcopy(task.net)
    callback = CodistillationCallback(alone(store))
    make_trainer(callback, max_epochs=1).fit(task)
    batch = next(iter(task.train_dataloader()))
    student, teachers = (net(features=batch["features"])[:, :3] for net in (before, teacher))
    by_hand = (teachers.softmax(-1) * (teachers.log_softmax(-1) - student.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(float(callback.report.distillation_loss), by_hand.item(), rtol=1e-5, atol=1e-5)
    assert callback.report.samples == 8


def test_a_batch_that_is_a_tensor_is_what_the_student_was_called_with() -> None:
    class Images(Task):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self.net(batch)
            return {"loss": cross_entropy(logits, batch[:, :CLASSES].argmax(1)), "logits": logits}

        def train_dataloader(self) -> DataLoader:
            return DataLoader(samples("a").tensors[0], batch_size=8)

    callback = CodistillationCallback(alone(store_with_a_finished_peer()))
    make_trainer(callback, max_epochs=1).fit(Images("a"))
    assert callback.report.teacher_share == 1.0


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_batch_that_training_step_skips_is_no_loss() -> None:
    class Skips(Task):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 2 else super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Record nothing."""

    callback = CodistillationCallback(alone())
    make_trainer(callback, max_epochs=1).fit(Skips("a"))
    assert (callback.report.step, callback.report.samples) == (BATCHES, (BATCHES - 1) * 8)


# --- ended while it waits for others ---


class DeadlyClock(FakeClock):
    """Lets the process be asked to end at its third sleep."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if len(self.sleeps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_a_wait_for_the_first_peers() -> None:
    store = MemoryStore()
    exchange = CheckpointExchange(store, peer="a", membership=Membership(start_with_peers=1))
    exchange.clock = DeadlyClock()
    trainer, before = make_trainer(CodistillationCallback(exchange)), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        trainer.fit(Task("a"))
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(exchange.clock.sleeps) == 3
    assert read_status(store, "a").state == "left"


def test_sigterm_ends_a_wait_in_lockstep() -> None:
    store = MemoryStore()
    # The other was there at the start, and made no step.
    other = lockstep(store, "b")
    other.clock = FakeClock()
    with pytest.raises(PeerMissingError):
        Codistiller(make_net("b"), other).loss(torch.randn(8, CLASSES), torch.randn(8, 6))
    exchange = lockstep(store, "a")
    exchange.clock = DeadlyClock()
    task = Task("a")
    with pytest.raises(SIGTERMException):
        make_trainer(CodistillationCallback(exchange)).fit(task)
    assert len(exchange.clock.sleeps) == 3
    # The first batch was waited for, the second not begun.
    assert task.losses == []
    assert read_status(store, "a").state == "left"


@pytest.mark.parametrize(("ranks", "is_noted"), [(1, True), (2, False)])
def test_lightning_broadcasts_no_signal_to_ranks_that_wait_elsewhere(ranks: int, is_noted: bool) -> None:
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    waiting = codistill.integrations.lightning._ended_by_sigterm(
        SimpleNamespace(world_size=ranks), waits=True
    )
    try:
        with pytest.raises(SIGTERMException), waiting:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert bool(noted) == is_noted


def test_sigterm_at_any_other_time_is_lightning_s() -> None:
    task = Task("a")

    class Deadly(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException):
        make_trainer(CodistillationCallback(alone()), Deadly()).fit(task)
    # The batch was finished first.
    assert len(task.losses) == 3


# --- what is logged ---


class Notebook(Logger):
    """Keeps what it is told."""

    name, version = "notebook", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep none."""


def test_the_trainer_s_loggers_are_told_at_its_own_pace() -> None:
    notebook = Notebook()
    callback = CodistillationCallback(alone(store_with_a_finished_peer()), weight=WEIGHT)
    trainer = make_trainer(callback, logger=notebook, log_every_n_steps=5, max_epochs=4)
    trainer.fit(Task("a"))
    rows = [(step, row) for step, row in notebook.rows if "codistill/weight" in row]
    assert [step for step, _ in rows] == [4, 9, 14, 19]
    for step, row in rows:
        assert row["codistill/weight"] == pytest.approx(WEIGHT)
        assert row["codistill/teacher_share"] == 1.0
        # Seen first at step 0.
        assert row["codistill/age_steps/b"] == step + 1
        assert row["codistill/distillation_loss"] > 0
        assert row["codistill/stall_s"] > 0
        # Measured at every 20th step.
        assert ("codistill/agreement" in row) == (step >= 19)
    assert 0 <= rows[-1][1]["codistill/agreement"] <= 1
    # For early stopping and the like.
    assert "codistill/distillation_loss" in trainer.callback_metrics


def test_what_callbacks_monitor_is_of_the_last_batch_of_the_epoch() -> None:
    seen = []

    class Monitor(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append(float(trainer.callback_metrics["codistill/age_steps/b"]))

    callback = CodistillationCallback(alone(store_with_a_finished_peer()), weight=WEIGHT)
    make_trainer(callback, Monitor(), logger=Notebook(), log_every_n_steps=3, max_epochs=2).fit(Task("a"))
    assert seen == [BATCHES, 2 * BATCHES]


def test_without_a_teacher_there_is_no_distillation_loss_to_log() -> None:
    notebook = Notebook()
    trainer = make_trainer(
        CodistillationCallback(alone()), logger=notebook, log_every_n_steps=1, max_epochs=1
    )
    trainer.fit(Task("a"))
    (names,) = {frozenset(row) - {"epoch"} for _, row in notebook.rows}
    assert names == {"codistill/weight", "codistill/teacher_share", "codistill/stall_s"}


def test_a_barebones_trainer_trains_and_logs_nothing() -> None:
    callback = CodistillationCallback(alone(store_with_a_finished_peer()))
    trainer = Trainer(callbacks=[callback], accelerator="cpu", devices=1, barebones=True, max_epochs=1)
    trainer.fit(Task("a"))
    assert callback.report.teacher_share == 1.0


@pytest.mark.parametrize("options", [{"overfit_batches": 2}, {"limit_train_batches": 2}])
def test_a_part_of_the_data_is_enough(options: dict[str, Any]) -> None:
    callback = CodistillationCallback(alone())
    make_trainer(callback, **options).fit(Task("a"))
    assert (callback.report.step, callback.report.samples) == (4, 32)


# --- a trial run ---


def test_a_fast_dev_run_touches_no_store_and_asks_nobody(asked: list[bool]) -> None:
    store = store_with_a_finished_peer()
    keys = set(store.list_names("", limit=10))
    callback = CodistillationCallback(alone(store))
    asked.clear()
    make_trainer(callback, fast_dev_run=3).fit(Task("a"))
    assert callback.report.step == 3
    assert not asked
    assert set(store.list_names("", limit=10)) == keys == {"b", "run.json"}


def test_a_fast_dev_run_finds_a_training_step_without_logits() -> None:
    with pytest.raises(ValueError, match=r"training_step must return 'logits'"):
        make_trainer(CodistillationCallback(alone()), fast_dev_run=True).fit(Returning({"loss": None}))


# --- predictions that are swapped ---


@pytest.mark.parametrize("kind", [Task, Whole])
def test_peers_of_one_device_each_swap_predictions(kind: type[Task]) -> None:
    exchanges = dict(zip("ab", connect_peers(2), strict=True))
    tasks = {peer: kind(peer) for peer in "ab"}
    for task in tasks.values():
        task.peer = "c"  # of the same batches
    # No copy of it is asked, so that it need not be the module that the logits come from.
    model = "net" if kind is Task else "first"

    def fit(peer: str) -> CodistillationCallback:
        callback = CodistillationCallback(PredictionExchange(exchanges[peer]), model=model, weight=WEIGHT)
        make_trainer(callback, max_epochs=1).fit(tasks[peer])
        return callback

    for callback in run_peers(fit, "ab").values():
        assert callback.report.teacher_share == 1.0
        assert float(callback.report.distillation_loss) > 0


# --- refusals ---


class Returning(Task):
    """Returns from ``training_step`` what it is told, with the loss where there is a place for it."""

    def __init__(self, output: Any) -> None:
        super().__init__("a")
        self.output = output

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)["loss"]
        return {**self.output, "loss": loss} if isinstance(self.output, dict) else loss


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (None, TypeError, r"must return a mapping of 'loss' and 'logits', got a Tensor\. Return \{\"loss\""),
        ({}, ValueError, r"must return 'logits', a tensor, got 'loss' \(Tensor\)\. Return \{\"loss\""),
        (
            {"logits": [1]},
            ValueError,
            r"must return 'logits', a tensor, got 'logits' \(list\), 'loss' \(Tensor\)",
        ),
    ],
)
def test_a_training_step_that_does_not_return_logits_is_refused(
    output: Any, error: type[Exception], message: str
) -> None:
    task, store = Returning(output), MemoryStore()
    with pytest.raises(error, match=message):
        make_trainer(CodistillationCallback(alone(store))).fit(task)
    assert "training_step" not in vars(task)
    # Nobody has joined a run yet.
    assert store.list_names("", limit=1) == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nett", r"got 'nett', but 'nett' of Task is no attribute\. Modules there: net\."),
        ("peer", r"'peer' of Task is a str\. Modules there: net\."),
        ("net.9", r"got 'net\.9', but '9' of Sequential is no attribute\. Modules there: 0, 1, 2, 3\."),
    ],
)
def test_an_attribute_that_is_no_module_is_refused_with_those_that_are(model: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(CodistillationCallback(alone(), model=model)).fit(Task("a"))


def test_manual_optimization_is_refused() -> None:
    task = Task("a")
    task.automatic_optimization = False
    with pytest.raises(ValueError, match="automatic_optimization must be True, got False"):
        make_trainer(CodistillationCallback(alone())).fit(task)


def test_a_training_step_that_reads_its_batches_itself_is_refused() -> None:
    class Reads(Task):
        def training_step(self, dataloader_iter: Any) -> Any:
            """Never be called."""

    with pytest.raises(ValueError, match="must take a batch, got dataloader_iter"):
        CodistillationCallback(alone()).setup(
            SimpleNamespace(strategy=SimpleNamespace(launcher=None)), Reads(), "fit"
        )


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_keep_parameters_their_own_way_are_refused(strategy: type[Any]) -> None:
    # Their constructors want a GPU, or a package.
    made = strategy.__new__(strategy)
    with pytest.raises(
        ValueError, match=r"divide them with fully_shard, got (FSDP|DeepSpeed)Strategy\. Pass Model"
    ):
        CodistillationCallback(alone()).setup(SimpleNamespace(strategy=made), Task("a"), "fit")


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_strategies_that_copy_this_process_are_refused(strategy: str) -> None:
    callback = CodistillationCallback(alone())
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False
    )
    trainer.strategy._configure_launcher()
    with pytest.raises(ValueError, match="must start each rank as a process of its own, got DDPStrategy"):
        callback.setup(trainer, Task("a"), "fit")
    # What spawning meets first.
    with pytest.raises(TypeError, match=r'cannot be pickled or copied.*Pass strategy="ddp"'):
        pickle.dumps(callback)


def test_swapping_predictions_among_the_ranks_of_one_trainer_is_refused() -> None:
    group, _ = connect_peers(2)
    trainer = SimpleNamespace(strategy=DDPStrategy(), world_size=2)
    with pytest.raises(
        ValueError, match=r"got PredictionExchange and a world of 2\. Give each peer a trainer of one"
    ):
        CodistillationCallback(PredictionExchange(group)).setup(trainer, Task("a"), "fit")


def test_two_callbacks_in_one_trainer_are_refused() -> None:
    # By Lightning itself.
    with pytest.raises(
        RuntimeError, match="more than one stateful callback of type `CodistillationCallback`"
    ):
        make_trainer(CodistillationCallback(alone()), CodistillationCallback(alone()))


def test_without_lightning_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissingError, match=r"lightning must be installed.*'codistill\[lightning\]'"):
        importlib.reload(codistill.integrations.lightning)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"exchange": "runs/store"}, TypeError, r"exchange must be an Exchange, got str\. Pass Checkpoint"),
        ({"model": nn.Linear(1, 1)}, ValueError, "model must be the name of an attribute"),
        ({"model": ""}, ValueError, "model must be the name of an attribute of the LightningModule, got ''"),
        ({"inputs": "x"}, TypeError, "inputs must be a function, got str"),
        (
            {"group": None},
            TypeError,
            "group must be left out: the ranks of this peer are the trainer's world",
        ),
        ({"wieght": 2.0}, TypeError, r"must be of burn_in_steps, .*weight, got wieght\. Correct"),
    ],
)
def test_wrong_arguments_are_refused_when_the_callback_is_made(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CodistillationCallback(options.pop("exchange", None) or alone(), **options)


def test_wrong_options_of_the_codistiller_are_refused_before_training_begins() -> None:
    task = Task("a")
    with pytest.raises(ValueError, match=r"weight must be finite and >= 0, got -1\.0"):
        make_trainer(CodistillationCallback(alone(), weight=-1.0)).fit(task)
    assert task.losses == []
