"""A peer of two ranks that is stopped and goes on; ``torchrun`` starts it with the folder of a store."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainingArguments

from codistill import CheckpointExchange, Membership
from codistill.integrations.transformers import CodistillationTrainer

FOLDER = Path(sys.argv[1])


class Model(nn.Module):
    """Divides its loss by the count that it is told, as Transformers' language models do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 7)

    def forward(self, features, labels=None, num_items_in_batch=None, **kwargs):
        logits = self.body(features)
        if labels is None:
            return {"logits": logits}
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return {"loss": total / num_items_in_batch, "logits": logits}


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt


def train(rows, *, resumes):
    trainer = CodistillationTrainer(
        Model(),
        TrainingArguments(
            output_dir=str(FOLDER / "out"),
            per_device_train_batch_size=2,
            num_train_epochs=2,
            learning_rate=0.5,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="steps",
            save_steps=3,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        ),
        train_dataset=rows,
        exchange=CheckpointExchange(
            FOLDER / "store", peer="a", interval_steps=2, membership=Membership(start_with_peers=1)
        ),
        weight=0.7,
        callbacks=[] if resumes else [Stop()],
    )
    try:
        trainer.train(resume_from_checkpoint=resumes)
    except KeyboardInterrupt:
        assert not resumes
    return trainer


if __name__ == "__main__":
    rows = json.loads((FOLDER / "rows.json").read_text())
    train(rows, resumes=False)
    trainer = train(rows, resumes=True)
    rank = int(os.environ["RANK"])
    told = {
        "lines": [line for line in trainer.state.log_history if "loss" in line],
        "weight": trainer.model.body.weight.tolist(),
        "is_wrapped": type(trainer.model_wrapped).__name__,
        "step": trainer.report.step,
        "samples": trainer.report.samples,
        "teacher_share": trainer.report.teacher_share,
    }
    (FOLDER / f"rank{rank}.json").write_text(json.dumps(told))
    sys.stdout.flush()
    # With gloo (torch 2.13) about one interpreter in a hundred aborts while it shuts down.
    os._exit(0)
