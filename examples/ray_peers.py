"""A template, not tried here: a script of your own, each peer one task of Ray, which starts it again.

A recipe of codistill's needs no script: codistill train RECIPE --on ray (docs/running.md).

    python examples/ray_peers.py --store s3://bucket/run-7 --gpus-per-peer 8

Ray places the two jobs, on whatever nodes of its cluster have the GPUs; inside, each is what it is elsewhere:
torchrun and ddp_peer.py, which go on from the checkpoint.
"""

import argparse
import subprocess

import ray

arguments = argparse.ArgumentParser()
arguments.add_argument("--store", required=True, help="a folder or URL that all nodes see")
arguments.add_argument("--checkpoints", default="/mnt/shared/checkpoints", help="a folder that all nodes see")
arguments.add_argument("--gpus-per-peer", type=int, default=8)
options = arguments.parse_args()


@ray.remote(num_gpus=options.gpus_per_peer, max_retries=10, retry_exceptions=True)
def run_peer(peer: str) -> None:
    """Run one peer to its end."""
    torchrun = ["torchrun", "--standalone", f"--nproc-per-node={options.gpus_per_peer}", "--max-restarts=3"]
    script = ["examples/ddp_peer.py", "--peer", peer, "--store", options.store]
    subprocess.run([*torchrun, *script, "--checkpoints", options.checkpoints], check=True)  # noqa: S603


# Ranks that are started again must not find the addresses of their life before (pytorch/pytorch#135712).
environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
ray.init(runtime_env={"working_dir": ".", "env_vars": environment})
ray.get([run_peer.remote(peer) for peer in ("a", "b")])
