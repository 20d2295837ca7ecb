"""A Trainer as a peer, against the loop written out by hand."""

import importlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import tqdm
import transformers
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from codistill import (
    CheckpointExchange,
    Codistiller,
    Membership,
    PredictionExchange,
    load_snapshot,
)
from codistill.errors import CodistillWarning, ExtraMissingError, RunExistsError
from codistill.integrations.transformers import CodistillationMixin, CodistillationTrainer
from codistill.integrations.transformers.loss_scale import divisor_of_sum, is_divided_by_count
from codistill.integrations.transformers.model_call import ModelCall
from codistill.integrations.transformers.refusals import check_settings
from codistill.testing import InlineBackground, connect_peers, run_peers

WEIGHT = 0.7
CLASSES = 7
IGNORED = -100


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, no progress bars, and the state that Accelerate keeps for a process as it was."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # A progress bar of Transformers' own would leave a thread that watches it.
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def language_model(seed: int, *, dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=16, n_positions=12, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def llama_config(**options: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=0, eos_token_id=0, pad_token_id=15, **options,
    )  # fmt: skip


def llama(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config())


def classifier(seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, num_labels=CLASSES, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    # It takes num_items_in_batch and leaves it out of its loss (5.24), which the Trainer does not know.
    model.accepts_loss_kwargs = False
    return model


def translator(seed: int) -> T5ForConditionalGeneration:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.accepts_loss_kwargs = False  # as above
    return model


class Plain(nn.Module):
    """A model that is none of Transformers', and takes no count of labels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(4, CLASSES)

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        logits = self.body(features)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": cross_entropy(logits, labels), "logits": logits}
        )


Rows = list[dict[str, Any]]


def texts(rows: int = 14) -> Rows:
    """Rows of 12 tokens with ever more of them masked, so that micro-batches differ in what counts."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for row in range(rows):
        tokens = torch.randint(16, (12,), generator=generator)
        labels = tokens.clone()
        labels[: row % 9] = IGNORED
        found.append({"input_ids": tokens, "labels": labels, "source": "never seen by the model"})
    return found


def sentences(rows: int = 14) -> Rows:
    generator = torch.Generator().manual_seed(4)
    return [
        {"input_ids": torch.randint(16, (12,), generator=generator), "labels": row % CLASSES}
        for row in range(rows)
    ]


def pairs(rows: int = 14) -> Rows:
    return [{**row, "labels": row["labels"][3:]} for row in texts(rows)]


def points(rows: int = 14) -> Rows:
    generator = torch.Generator().manual_seed(5)
    return [{"features": torch.randn(4, generator=generator), "labels": row % CLASSES} for row in range(rows)]


def batches(rows: Rows, size: int) -> Iterator[dict[str, torch.Tensor]]:
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        yield {
            name: torch.stack([torch.as_tensor(row[name]) for row in part])
            for name in part[0]
            if name != "source"
        }


def leave_a_snapshot(store: Path, model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Let peer b train for a step and finish, so that peer a has a teacher that stays what it is."""
    exchange = CheckpointExchange(store, peer="b")
    exchange.background = InlineBackground()
    codistiller = Codistiller(model, exchange, outputs_to_logits=lambda outputs: outputs["logits"])
    codistiller.loss(model(**inputs)["logits"], inputs)
    codistiller.step(task_loss=1.0)
    codistiller.close()


def exchange_of_a(store: Path, **options: Any) -> CheckpointExchange:
    membership = options.pop("membership", Membership(start_with_peers=1))
    exchange = CheckpointExchange(store, peer="a", membership=membership, **options)
    exchange.background = InlineBackground()
    return exchange


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    chosen = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
        "learning_rate": 0.5,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        **options,
    }
    return TrainingArguments(output_dir=str(folder / "out"), **chosen)


def losses(trainer: Trainer, name: str = "loss") -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(found: nn.Module, wanted: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    for name, value in found.state_dict().items():
        assert torch.allclose(value, wanted[name], rtol=0.0, atol=tolerance), name


# --- the loop by hand ---


def by_hand(
    student: nn.Module,
    teacher: nn.Module,
    rows: Rows,
    *,
    shift: bool = False,
    counted: str | None = "labels",
    epochs: int = 2,
    accumulate: int = 3,
) -> tuple[list[float], list[float]]:
    """Train with cross entropy and KL, and return each step's loss and task loss."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    teacher.eval()
    student.train()
    totals, tasks = [], []
    for _ in range(epochs):
        whole = list(batches(rows, 2))
        for first in range(0, len(whole), accumulate):
            micro = whole[first : first + accumulate]
            first_label = 1 if counted == "shifted labels" else 0
            columns = [batch["labels"][..., first_label:] for batch in micro]
            items = sum(int((labels != IGNORED).sum()) for labels in columns)
            total = task = 0.0
            for batch in micro:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                if isinstance(student, T5ForConditionalGeneration):
                    # [start, y1, ..., y(n-1)], a mask becomes padding: Raffel et al., as in any T5.
                    before = torch.zeros_like(batch["labels"])
                    before[:, 1:] = batch["labels"][:, :-1].clamp(min=0)
                    inputs["decoder_input_ids"] = before
                logits = student(**inputs)["logits"]
                with torch.no_grad():
                    wanted = teacher(**inputs)["logits"]
                labels = batch["labels"]
                if shift:
                    logits, wanted, labels = logits[:, :-1], wanted[:, :-1], labels[:, 1:]
                keep = labels != IGNORED
                divisor = items if counted else int(keep.sum()) * len(micro)
                task_loss = cross_entropy(logits[keep], labels[keep], reduction="sum") / divisor
                distance = kl_div(
                    log_softmax(logits[keep], -1),
                    log_softmax(wanted[keep], -1),
                    reduction="sum",
                    log_target=True,
                )
                loss = task_loss + WEIGHT * distance / divisor
                loss.backward()
                total, task = total + loss.item(), task + task_loss.item()
            optimizer.step()
            optimizer.zero_grad()
            totals.append(total)
            tasks.append(task)
    return totals, tasks


# What makes the model and its rows, whether its loss shifts labels, and what the Trainer counts.
KINDS: dict[str, tuple[Callable[[int], nn.Module], Callable[[], Rows], bool, str | None]] = {
    "causal language model": (llama, texts, True, "shifted labels"),
    # Its class does not tell its loss: the Trainer (5.24) counts its first labels too, in its own loss.
    "GPT-2": (language_model, texts, True, "labels"),
    "classification": (classifier, sentences, False, None),
    "sequence to sequence": (translator, pairs, False, None),
    "a model of one's own": (Plain, points, False, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_weights_are_those_of_the_loop_by_hand(kind: str, tmp_path: Path) -> None:
    make, rows, shift, counted = KINDS[kind]
    teacher, student = make(1), make(0)
    first = next(iter(batches(rows(), 2)))
    leave_a_snapshot(tmp_path / "store", teacher, first)
    trainer = CodistillationTrainer(
        student,
        arguments(tmp_path),
        train_dataset=rows(),
        exchange=exchange_of_a(tmp_path / "store"),
        weight=WEIGHT,
    )
    trainer.train()
    same = make(0)
    totals, tasks = by_hand(same, teacher, rows(), shift=shift, counted=counted)
    assert len(totals) == 6
    assert losses(trainer) == pytest.approx(totals, abs=1e-5)
    assert losses(trainer, "codistill/task_loss") == pytest.approx(tasks, abs=1e-5)
    assert_same(student, weights(same), tolerance=1e-5)
    assert max(losses(trainer, "codistill/distillation_loss")) > 1e-3
    assert trainer.report is not None
    assert (trainer.report.step, trainer.report.samples, trainer.report.teacher_share) == (6, 28, 1.0)


@pytest.mark.parametrize("kind", ["classification", "sequence to sequence"])
def test_where_a_model_leaves_the_count_out_both_losses_are_sums_of_means(kind: str, tmp_path: Path) -> None:
    make, rows, _, counted = KINDS[kind]
    teacher, student = make(1), make(0)
    leave_a_snapshot(tmp_path / "store", teacher, next(iter(batches(rows(), 2))))
    del student.accepts_loss_kwargs  # what the Trainer believes of it then is wrong
    trainer = CodistillationTrainer(
        student,
        arguments(tmp_path, learning_rate=0.5 / 3),
        train_dataset=rows()[:12],
        exchange=exchange_of_a(tmp_path / "store"),
        weight=WEIGHT,
    )
    trainer.train()
    same = make(0)
    totals, tasks = by_hand(same, teacher, rows()[:12], counted=counted)
    assert losses(trainer) == pytest.approx([3 * total for total in totals], abs=1e-4)
    assert losses(trainer, "codistill/task_loss") == pytest.approx(tasks, abs=1e-5)
    assert_same(student, weights(same), tolerance=1e-5)


class StopAt(TrainerCallback):
    """Ends a training as a fault of the machine would, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt("the machine is taken away")


def train_b(store: Path) -> Callable[[], None]:
    """Return what peer b does: the plain loop, in lockstep with a."""
    model = language_model(1)
    exchange = CheckpointExchange(store, peer="b", peers=["a", "b"], interval_steps=2, lockstep=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def train() -> None:
        with Codistiller(model, exchange, outputs_to_logits=lambda outputs: outputs.logits) as codistiller:
            for _, batch in zip(range(6), batches(texts(), 2), strict=False):
                inputs = {"input_ids": batch["input_ids"]}
                logits = model(**inputs).logits
                task_loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
                (task_loss + codistiller.loss(logits, inputs)).backward()
                optimizer.step()
                optimizer.zero_grad()
                codistiller.step(task_loss=task_loss.detach())

    return train


def train_a(folder: Path, *, stops_at: int | None = None, resumes: bool = False) -> Trainer:
    trainer = CodistillationTrainer(
        language_model(0, dropout=0.1),
        arguments(folder, gradient_accumulation_steps=1, max_steps=6, save_strategy="steps", save_steps=3),
        train_dataset=texts(),
        exchange=CheckpointExchange(
            folder / "store", peer="a", peers=["a", "b"], interval_steps=2, lockstep=True
        ),
        callbacks=[] if stops_at is None else [StopAt(stops_at)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resumes)
    return trainer


def test_a_run_in_lockstep_that_is_stopped_and_resumed_is_the_undisturbed_one_to_the_bit(
    tmp_path: Path,
) -> None:
    undisturbed = beside_b(tmp_path / "one", lambda: train_a(tmp_path / "one"))

    def stopped_and_resumed() -> Trainer:
        with pytest.raises(KeyboardInterrupt, match="taken away"):
            train_a(tmp_path / "two", stops_at=5)
        _, info = load_snapshot(tmp_path / "two" / "store", "a")
        assert (info.step, info.finished) == (4, False)
        return train_a(tmp_path / "two", resumes=True)

    resumed = beside_b(tmp_path / "two", stopped_and_resumed)
    assert losses(resumed) == losses(undisturbed)
    assert losses(resumed, "codistill/distillation_loss") == losses(
        undisturbed, "codistill/distillation_loss"
    )
    assert_same(resumed.model, weights(undisturbed.model))
    _, info = load_snapshot(tmp_path / "two" / "store", "a")
    assert (info.step, info.samples, info.finished) == (6, 12, True)
    assert min(losses(resumed, "codistill/distillation_loss")) > 1e-4


def beside_b(folder: Path, train: Callable[[], Trainer]) -> Trainer:
    """Run something while peer b trains beside it."""
    work: dict[str, Callable[[], Any]] = {"a": train, "b": train_b(folder / "store")}
    return run_peers(lambda name: work[name](), work)["a"]


def test_a_checkpoint_without_the_codistiller_s_file_starts_a_new_peer_and_says_so(tmp_path: Path) -> None:
    plain = Trainer(
        language_model(0), arguments(tmp_path, save_strategy="steps", save_steps=4), train_dataset=texts()
    )
    plain.train()
    store = tmp_path / "store"
    peer = CodistillationTrainer(
        language_model(0),
        arguments(tmp_path),
        train_dataset=texts(),
        exchange=exchange_of_a(store, membership=Membership()),
    )
    with pytest.warns(CodistillWarning, match=r"holds no codistiller.json: the weights are resumed"):
        peer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert peer.report.step == 2
    assert load_snapshot(store, "a")[1].finished


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"version": 99}', '{"version": 1}'])
def test_a_codistiller_s_file_that_cannot_be_used_is_named_and_nothing_is_trained(
    content: str, tmp_path: Path
) -> None:
    options = {"save_strategy": "steps", "save_steps": 4}
    store = tmp_path / "store"
    first = CodistillationTrainer(
        language_model(0),
        arguments(tmp_path, **options),
        train_dataset=texts(),
        exchange=exchange_of_a(store, membership=Membership()),
    )
    first.train()
    path = tmp_path / "out" / "checkpoint-4" / "codistiller.json"
    assert json.loads(path.read_text())["step"] == 4
    path.write_text(content)
    again = CodistillationTrainer(
        language_model(0),
        arguments(tmp_path, **options),
        train_dataset=texts(),
        exchange=exchange_of_a(store, membership=Membership()),
    )
    with pytest.raises(ValueError, match=r"checkpoint-4/codistiller.json must be what this peer saved there"):
        again.train(resume_from_checkpoint=str(path.parent))
    assert load_snapshot(store, "a")[1].step == 6


def test_an_exception_leaves_no_last_snapshot(tmp_path: Path) -> None:
    trainer = CodistillationTrainer(
        language_model(0),
        arguments(tmp_path),
        train_dataset=texts(),
        exchange=exchange_of_a(tmp_path / "store", membership=Membership(), interval_steps=2),
        callbacks=[StopAt(3)],
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    _, info = load_snapshot(tmp_path / "store", "a")
    assert (info.step, info.finished) == (2, False)
    with pytest.raises(RuntimeError, match=r"train\(\) must be called once for each exchange"):
        trainer.train()


# --- evaluation, logs ---


def test_evaluation_and_prediction_ask_no_teacher_and_are_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_a_snapshot(tmp_path / "store", llama(1), {"input_ids": texts()[0]["input_ids"][None]})
    options = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    trainer = CodistillationTrainer(
        llama(0),
        arguments(tmp_path, **options),
        train_dataset=texts(),
        eval_dataset=texts(4),
        exchange=exchange_of_a(tmp_path / "store"),
        weight=WEIGHT,
    )
    asked = []
    ask = Codistiller.loss
    monkeypatch.setattr(Codistiller, "loss", lambda *args, **kw: asked.append(1) or ask(*args, **kw))
    trainer.train()
    assert len(asked) == 14  # micro-batches of two epochs
    plain = Trainer(trainer.model, arguments(tmp_path), eval_dataset=texts(4))
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    found, wanted = trainer.predict(texts(4)), plain.predict(texts(4))
    assert torch.equal(torch.tensor(found.predictions), torch.tensor(wanted.predictions))
    assert len(asked) == 14


def test_a_line_of_the_log_holds_the_loss_and_what_it_is_made_of(tmp_path: Path) -> None:
    leave_a_snapshot(tmp_path / "store", llama(1), {"input_ids": texts()[0]["input_ids"][None]})
    trainer = CodistillationTrainer(
        llama(0),
        arguments(tmp_path, logging_steps=2, max_steps=40),
        train_dataset=texts(),
        exchange=exchange_of_a(tmp_path / "store"),
        weight=WEIGHT,
        burn_in_steps=2,
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 20
    assert "codistill/distillation_loss" not in lines[0]
    assert lines[0]["codistill/weight"] == 0.0
    for line in lines[1:]:
        assert line["loss"] == pytest.approx(
            line["codistill/task_loss"] + WEIGHT * line["codistill/distillation_loss"], abs=1e-5
        )
        assert (line["codistill/weight"], line["codistill/age_steps/b"]) == (WEIGHT, line["step"])
    assert 0.0 <= lines[-1]["codistill/agreement"] <= 1.0
    assert lines[-1]["codistill/teacher_share"] == 1.0
    assert {type(value) for line in lines for value in line.values()} <= {int, float}
    assert "codistill/task_loss" not in trainer.state.log_history[-1]


# --- whatever the loss is ---


def half_of_cross_entropy(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    logits, wanted = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return 0.5 * cross_entropy(logits, wanted, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize(
    "kind", ["label smoothing", "compute_loss_func", "bf16", "compiled", "counted by rank"]
)
def test_the_loss_is_the_task_loss_and_the_weighted_term(kind: str, tmp_path: Path) -> None:
    leave_a_snapshot(tmp_path / "store", llama(1), {"input_ids": texts()[0]["input_ids"][None]})
    settings: dict[str, dict[str, Any]] = {
        "label smoothing": {"label_smoothing_factor": 0.1},
        "bf16": {"bf16": True},
        "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
        "counted by rank": {"average_tokens_across_devices": False},
    }
    options = {**settings.get(kind, {}), "learning_rate": 0.1}
    own_loss = {"compute_loss_func": half_of_cross_entropy} if kind == "compute_loss_func" else {}
    both = {}
    for weight in (0.0, WEIGHT):
        shutil.copytree(tmp_path / "store", tmp_path / f"store {weight}")
        trainer = CodistillationTrainer(
            llama(0),
            arguments(tmp_path, **options),
            train_dataset=texts(),
            exchange=exchange_of_a(tmp_path / f"store {weight}"),
            weight=weight,
            **own_loss,
        )
        trainer.train()
        both[weight] = trainer
    plain = Trainer(llama(0), arguments(tmp_path, **options), train_dataset=texts(), **own_loss)
    plain.train()
    assert losses(both[0.0]) == losses(plain)
    assert losses(both[WEIGHT], "codistill/task_loss")[0] == pytest.approx(losses(plain)[0], abs=1e-6)
    for line in both[WEIGHT].state.log_history[:-1]:
        assert line["loss"] == pytest.approx(
            line["codistill/task_loss"] + WEIGHT * line["codistill/distillation_loss"], abs=1e-5
        )
    # The first distance does not depend on how the task loss is made.
    tokens, labels = (torch.stack([row[name] for row in texts(6)]) for name in ("input_ids", "labels"))
    counts = labels[:, 1:] != IGNORED
    with torch.no_grad():
        student, teacher = (log_softmax(llama(seed)(tokens).logits[:, :-1][counts], -1) for seed in (0, 1))
    distance = kl_div(student, teacher, reduction="batchmean", log_target=True)
    assert losses(both[WEIGHT], "codistill/distillation_loss")[0] == pytest.approx(
        float(distance), rel=0.05 if kind == "bf16" else 1e-4
    )


class Weighing(Trainer):
    """A Trainer as users write them: its own loss, and a column that the model does not take."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        importance = inputs.pop("importance")
        outputs = model(inputs.pop("features"))
        loss = (importance * cross_entropy(outputs["logits"], inputs["labels"], reduction="none")).mean()
        return (loss, outputs) if return_outputs else loss


class WeighingPeer(CodistillationMixin, Weighing):
    pass


class Listening(Plain):
    """Notes what it is called with: a copy of it, a teacher, notes it in the same list."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.heard = SimpleNamespace(names=[])
        self.heard.__deepcopy__ = lambda memo: self.heard

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        if torch.is_grad_enabled() is False:
            self.heard.names.append((self.training, labels is not None))
        return super().forward(features, labels)


def test_a_trainer_of_one_s_own_is_a_peer_with_the_mixin_before_it(tmp_path: Path) -> None:
    rows = [{**row, "importance": 2.0} for row in points()]
    leave_a_snapshot(tmp_path / "store", Plain(1), {"features": torch.zeros(2, 4)})
    trainer = WeighingPeer(
        Plain(0),
        arguments(tmp_path, remove_unused_columns=False),
        train_dataset=rows,
        eval_dataset=rows,
        exchange=exchange_of_a(tmp_path / "store"),
        weight=WEIGHT,
    )
    trainer.train()
    plain = Weighing(Plain(0), arguments(tmp_path, remove_unused_columns=False), train_dataset=rows)
    plain.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert lines[0]["codistill/task_loss"] == pytest.approx(losses(plain)[0], abs=1e-6)
    for line in lines:
        assert line["loss"] == pytest.approx(
            line["codistill/task_loss"] + WEIGHT * line["codistill/distillation_loss"], abs=1e-5
        )
    assert trainer.report.teacher_share == 1.0


class OwnMean(Trainer):
    """Its loss is a mean of its own, though the model would take the count of all ranks' labels."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        wanted = inputs.pop("labels")[:, 1:].flatten()
        return cross_entropy(model(**inputs).logits[:, :-1].flatten(0, 1), wanted)


class OwnMeanPeer(CodistillationMixin, OwnMean):
    pass


class OwnMeanOfAll(OwnMeanPeer):
    def distillation_mask(self, batch: dict[str, Any], logits: torch.Tensor) -> None:
        return None

    def _targets(self, batch: dict[str, Any], logits: torch.Tensor) -> None:
        return None


@pytest.mark.parametrize("kind", [OwnMeanPeer, OwnMeanOfAll])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_mean_of_one_s_own_is_not_taken_for_one_that_the_trainer_multiplies_by_ranks(
    kind: type[OwnMeanPeer], accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_a_snapshot(tmp_path / "store", llama(1), {"input_ids": texts()[0]["input_ids"][None]})
    trainer = kind(
        llama(0),
        arguments(tmp_path, gradient_accumulation_steps=accumulate, max_steps=2),
        train_dataset=texts(24),
        exchange=exchange_of_a(tmp_path / "store"),
        weight=WEIGHT,
    )
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", property(lambda _: 2))
    trainer.train()
    for line in [line for line in trainer.state.log_history if "loss" in line]:
        mean = line["codistill/task_loss"] + WEIGHT * line["codistill/distillation_loss"]
        # The Trainer (5.24) adds up the means of micro-batches.
        assert line["loss"] == pytest.approx(accumulate * mean, abs=1e-5)


def test_a_teacher_is_in_eval_mode_and_never_given_labels(tmp_path: Path) -> None:
    leave_a_snapshot(tmp_path / "store", Plain(1), {"features": torch.zeros(2, 4)})
    student = Listening(0)
    CodistillationTrainer(
        student, arguments(tmp_path), train_dataset=points(), exchange=exchange_of_a(tmp_path / "store")
    ).train()
    assert student.heard.names == [(False, False)] * 14


def test_a_mask_of_one_s_own_decides_which_positions_are_compared(tmp_path: Path) -> None:
    class FirstRow(CodistillationMixin, Trainer):
        def distillation_mask(self, batch: dict[str, Any], logits: torch.Tensor) -> torch.Tensor:
            return torch.arange(len(logits)) == 0

    leave_a_snapshot(tmp_path / "store", Plain(1), {"features": torch.zeros(2, 4)})
    trainer = FirstRow(
        Plain(0), arguments(tmp_path), train_dataset=points(), exchange=exchange_of_a(tmp_path / "store")
    )
    trainer.train()
    first = torch.stack([row["features"] for row in points(6)])[::2]
    with torch.no_grad():
        student, teacher = (log_softmax(Plain(seed)(first)["logits"], -1) for seed in (0, 1))
    wanted = float(kl_div(student, teacher, reduction="batchmean", log_target=True))
    assert losses(trainer, "codistill/distillation_loss")[0] == pytest.approx(wanted, abs=1e-6)


class CallsTwice(Trainer):
    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        model(**inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)


class PeerCallsTwice(CodistillationMixin, CallsTwice):
    pass


class NoLogits(Plain):
    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        outputs = super().forward(features, labels)
        return {"loss": outputs["loss"], "hidden": outputs["logits"]}


class Tuples(Plain):
    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        return tuple(super().forward(features, labels).values())


@pytest.mark.parametrize(
    ("kind", "model", "error", "words"),
    [
        (CodistillationTrainer, NoLogits, TypeError, "must return logits .* got dict with loss, hidden"),
        (CodistillationTrainer, Tuples, TypeError, "got tuple. Pass outputs_to_logits"),
        (PeerCallsTwice, Plain, ValueError, "compute_loss must call the model once, got 2 calls"),
    ],
)
def test_a_loss_without_logits_to_compare_is_refused_at_the_first_batch(
    kind: Any, model: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    student = model(0)
    before = weights(student)
    trainer = kind(
        student,
        arguments(tmp_path),
        train_dataset=points(),
        exchange=exchange_of_a(tmp_path / "store", membership=Membership()),
    )
    with pytest.raises(error, match=words):
        trainer.train()
    assert_same(student, before)


def test_logits_under_another_name_are_found_by_outputs_to_logits(tmp_path: Path) -> None:
    trainer = CodistillationTrainer(
        NoLogitsInTeachers(0),
        arguments(tmp_path),
        train_dataset=points(),
        exchange=exchange_of_a(tmp_path / "store", membership=Membership()),
        outputs_to_logits=lambda outputs: outputs["hidden"],
    )
    trainer.train()
    assert trainer.report.step == 6


class NoLogitsInTeachers(Plain):
    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        outputs = super().forward(features, labels)
        outputs["hidden"] = outputs.pop("logits")
        return outputs


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size must be False .* Set per_device_train"),
        ({"save_on_each_node": True}, "save_on_each_node must be False"),
    ],
)
def test_settings_that_do_not_go_with_codistillation_are_refused_before_training(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        CodistillationTrainer(
            Plain(0),
            arguments(tmp_path, **options),
            train_dataset=points(),
            exchange=exchange_of_a(tmp_path / "store"),
        )


def fake_trainer(**options: Any) -> Any:
    """A Trainer as its constructor leaves it where there are devices or packages that are not here."""
    args = {
        "fsdp": False, "use_liger_kernel": False, "auto_find_batch_size": False, "save_on_each_node": False,
        "world_size": 1,
    }  # fmt: skip
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=options.pop("fsdp_plugin", None)),
        parallelism_config=options.pop("parallelism_config", None),
    )
    return SimpleNamespace(
        is_deepspeed_enabled=options.pop("deepspeed", False),
        args=SimpleNamespace(**{**args, **options}),
        accelerator=accelerator,
        model=Plain(0),
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deepspeed": True}, "deepspeed must be off"),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, "fsdp must be of version 2 .* got version 1"),
        ({"fsdp_plugin": SimpleNamespace()}, "fsdp must be of version 2"),
        ({"use_liger_kernel": True}, "use_liger_kernel must be False"),
        ({"parallelism_config": SimpleNamespace(cp_size=2)}, "cp_size must be 1 .* got 2"),
    ],
)
def test_engines_that_leave_nothing_to_compare_or_publish_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        check_settings(fake_trainer(**options), exchange_of_a(tmp_path / "store"))
    check_settings(fake_trainer(fsdp_plugin=SimpleNamespace(fsdp_version=2)), exchange_of_a(tmp_path / "s"))


def test_predictions_are_not_swapped_inside_the_trainer_s_own_world() -> None:
    exchange = PredictionExchange(connect_peers(2)[0])
    check_settings(fake_trainer(), exchange)
    with pytest.raises(ValueError, match=r"exchange must not swap predictions .* got 2 ranks"):
        check_settings(fake_trainer(world_size=2), exchange)


def test_what_is_no_exchange_and_a_search_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="exchange must be an Exchange, got str"):
        CodistillationTrainer(Plain(0), arguments(tmp_path), exchange="store")
    trainer = CodistillationTrainer(
        Plain(0),
        arguments(tmp_path),
        train_dataset=points(),
        exchange=exchange_of_a(tmp_path / "store", membership=Membership()),
    )
    with pytest.raises(ValueError, match="trial must be None"):
        trainer.train(trial={"learning_rate": 1.0})
    assert trainer.codistiller is None


def test_a_new_run_over_an_old_one_of_this_peer_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    for attempt in range(2):
        trainer = CodistillationTrainer(
            Plain(attempt),
            arguments(tmp_path),
            train_dataset=points(),
            exchange=exchange_of_a(tmp_path / "store", membership=Membership()),
        )
        if attempt == 0:
            trainer.train()
            kept = load_snapshot(tmp_path / "store", "a")
            continue
        with pytest.raises(RunExistsError):
            trainer.train()
    tensors, info = load_snapshot(tmp_path / "store", "a")
    assert info == kept[1]
    assert all(torch.equal(tensors[name], value) for name, value in kept[0].items())


def test_without_transformers_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "transformers" else found(name, *rest),
    )
    for name in [name for name in sys.modules if name.startswith("codistill.integrations.transformers")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ExtraMissingError, match=r"pip install 'codistill\[transformers\]'"):
        importlib.import_module("codistill.integrations.transformers")


# --- parts of it, alone ---


def test_what_is_given_by_position_is_named_and_labels_are_taken_out() -> None:
    model = Plain(0)
    with ModelCall.watching(model) as call:
        outputs = model(torch.ones(2, 4), torch.tensor([0, 1]))
    assert call.count == 1
    assert call.outputs is outputs
    assert list(call.teacher_inputs(model, [])) == ["features"]


def test_a_decoder_s_inputs_are_made_from_labels_as_the_model_makes_them() -> None:
    model = translator(0)
    labels = torch.tensor([[3, 4, IGNORED]])
    with ModelCall.watching(model) as call:
        model(input_ids=torch.tensor([[5, 6]]), labels=labels)
    inputs = call.teacher_inputs(model, ["labels"])
    assert set(inputs) == {"input_ids", "decoder_input_ids"}
    assert inputs["decoder_input_ids"].tolist() == [[0, 3, 4]]
    given = torch.tensor([[0, 7, 7]])
    call.keywords = {**call.keywords, "decoder_input_ids": given}
    assert call.teacher_inputs(model, ["labels"])["decoder_input_ids"] is given


def test_a_sum_over_labels_is_told_from_a_mean_by_its_value() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 5, CLASSES), torch.randint(CLASSES, (2, 5))
    targets[0, :2] = IGNORED
    total = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    divided = torch.tensor(24.0)
    told = {
        "sum": is_divided_by_count(total / divided, logits, targets, divided=divided, mean=1.0),
        "mean": is_divided_by_count(total / 8, logits, targets, divided=divided, mean=1.0),
        "mean, twice": is_divided_by_count(2 * total / 8, logits, targets, divided=divided / 2, mean=2.0),
        "same": is_divided_by_count(total / 8, logits, targets, divided=torch.tensor(8.0), mean=1.0),
        "nothing": is_divided_by_count(
            total, logits, torch.full_like(targets, IGNORED), divided=divided, mean=1.0
        ),
    }
    assert told == {"sum": True, "mean": False, "mean, twice": False, "same": None, "nothing": None}


@pytest.mark.parametrize(
    ("devices", "mean", "wanted"), [(1, 1.0, 12.0), (1, 4.0, 3.0), (2, 2.0, 12.0), (2, 1.0, 24.0)]
)
def test_the_divisor_is_what_the_trainer_divides_by_in_the_end(
    devices: int, mean: float, wanted: float
) -> None:
    count = torch.tensor(12) if devices == 1 else torch.tensor([[12], [12]])
    assert float(divisor_of_sum(count, devices=devices, mean=mean)) == wanted


def test_a_call_whose_labels_cannot_be_told_from_inputs_is_refused() -> None:
    class Anything(nn.Module):
        def forward(self, *parts: torch.Tensor) -> torch.Tensor:
            return parts[0]

    model = Anything()
    with ModelCall.watching(model) as call:
        model(torch.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match=r"must call Anything by name, got 2 arguments without one"):
        call.teacher_inputs(model, [])


def test_a_decoder_whose_inputs_nobody_can_make_is_refused() -> None:
    model = Plain(0)
    model.config = SimpleNamespace(is_encoder_decoder=True)
    with ModelCall.watching(model) as call:
        model(features=torch.ones(2, 4), labels=torch.tensor([0, 1]))
    with pytest.raises(
        ValueError, match=r"must hold decoder_input_ids .* got features, labels, and Plain has"
    ):
        call.teacher_inputs(model, [])
