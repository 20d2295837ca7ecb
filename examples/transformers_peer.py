"""A Trainer that is a peer: a small language model of Python's own standard library, byte by byte.

    python examples/transformers_peer.py --peer a --store runs/transformers/store --seed 1 &
    python examples/transformers_peer.py --peer b --store runs/transformers/store --seed 2

Both wait for each other's first snapshot, then neither waits again. Peers that start from one seed stay
equal, and learn nothing. What codistillation adds to the script: docs/transformers.md.
"""

import argparse
import sysconfig
from pathlib import Path

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from codistill import CheckpointExchange, Membership
from codistill.integrations.transformers import CodistillationTrainer

arguments = argparse.ArgumentParser()
arguments.add_argument("--peer", required=True, help="this job's name")
arguments.add_argument("--store", required=True, help="a folder that all peers see")
arguments.add_argument("--seed", type=int, default=0)
arguments.add_argument("--steps", type=int, default=120)
arguments.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
options = arguments.parse_args()

files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
text = torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8)
rows = [{"input_ids": row, "labels": row} for row in text[: len(text) // 64 * 64].long().view(-1, 64)]

transformers.set_seed(options.seed)
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
)
start = Membership(start_with_peers=1, rejoin=options.resume)
trainer = CodistillationTrainer(
    model,
    TrainingArguments(
        output_dir=f"runs/transformers/{options.seed}",
        seed=options.seed,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        logging_steps=20,
        save_steps=20,
        save_total_limit=2,
        report_to="none",
    ),
    train_dataset=rows[:-100],
    eval_dataset=rows[-100:],
    exchange=CheckpointExchange(options.store, peer=options.peer, interval_steps=20, membership=start),
)
checkpoint = get_last_checkpoint(trainer.args.output_dir) if options.resume else None
trainer.train(resume_from_checkpoint=checkpoint)
trainer.log_metrics("eval", trainer.evaluate())
