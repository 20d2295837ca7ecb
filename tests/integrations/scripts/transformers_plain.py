"""A small language model of Python's own standard library, byte by byte, as anybody would train it."""

import argparse
import sysconfig
from pathlib import Path

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

arguments = argparse.ArgumentParser()
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
trainer = transformers.Trainer(
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
)
checkpoint = get_last_checkpoint(trainer.args.output_dir) if options.resume else None
trainer.train(resume_from_checkpoint=checkpoint)
trainer.log_metrics("eval", trainer.evaluate())
