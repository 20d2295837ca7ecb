"""What `test_lightning_ranks` runs: ``python lightning_ranks.py FOLDER``; Lightning starts the second rank.

Fits one after the other, in the way that a user's script makes them. Each rank leaves what it saw as JSON.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from codistill import CheckpointExchange, Codistiller, Membership, TeacherOptions
from codistill.integrations.lightning import CodistillationCallback

BATCH = 8  # of all ranks together
BATCHES = 6
EPOCHS = 2


def make_net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5))


def leave_a_finished_peer(store):
    """Let peer b leave its weights in a store: nobody has to wait for it."""
    net = make_net(1)
    with Codistiller(net, CheckpointExchange(store, peer="b")) as codistiller:
        inputs = torch.zeros(1, 6)
        codistiller.loss(net(inputs), inputs)
        codistiller.step(samples=1000)


class Task(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = make_net(0)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        logits = self.net(inputs)
        return {"loss": cross_entropy(logits, targets), "logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.2, momentum=0.9)

    def train_dataloader(self):
        inputs = torch.randn(BATCHES * BATCH, 6, generator=torch.Generator().manual_seed(0))
        samples, ranks = TensorDataset(inputs, inputs[:, :5].argmax(1)), self.trainer.world_size
        # Rank r of n has the samples r, r + n, ...: all together have the batches of one process.
        sampler = DistributedSampler(samples, ranks, self.trainer.global_rank, shuffle=False)
        return DataLoader(samples, batch_size=BATCH // ranks, sampler=sampler)


class DividedTask(Task):
    def configure_model(self):
        divide(self.net, self.device_mesh)


def divide(net: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return fully_shard(net, mesh=mesh["data_parallel"])


def fit(task, exchange, *, folder=None, resume_from=None, epochs=EPOCHS, **options):
    callback = CodistillationCallback(exchange, weight=0.7)
    checkpoints = [] if folder is None else [ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)]
    trainer = Trainer(
        callbacks=[callback, *checkpoints],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=bool(checkpoints),
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=epochs,
        **options,
    )
    trainer.fit(task, ckpt_path=resume_from)
    report = callback.report
    return {
        "step": report.step,
        "samples": report.samples,
        "teachers": dict(report.teachers),
        "teacher_share": report.teacher_share,
        "weights": {name: whole(tensor).tolist() for name, tensor in task.net.state_dict().items()},
    }


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def exchange_of(store, **options):
    return CheckpointExchange(store, peer="a", membership=Membership(start_with_peers=1), **options)


def main(folder):
    seen = {}
    ranks = {"devices": 2, "use_distributed_sampler": False}
    seen["ddp"] = fit(Task(), exchange_of(folder / "ddp"), strategy=DDPStrategy(), **ranks)

    def divided(epochs, resume_from=None):
        task = DividedTask()
        teachers = TeacherOptions(build=lambda snapshot: divide(make_net(2), task.device_mesh))
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
        return fit(
            task,
            exchange_of(folder / "fsdp2", teachers=teachers),
            strategy=strategy,
            folder=folder / "checkpoints",
            resume_from=resume_from,
            epochs=epochs,
            **ranks,
        )

    divided(EPOCHS - 1)
    seen["fsdp2"] = divided(EPOCHS, resume_from=folder / "checkpoints" / "epoch=0.ckpt")
    rank = os.environ.get("LOCAL_RANK", "0")
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of lightning's own, see test_lightning.py
    main(Path(sys.argv[1]))
    # With gloo (torch 2.13) about one interpreter in a hundred aborts while it shuts down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
