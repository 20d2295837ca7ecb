"""``codistill export``: the weights of a peer as a file that loads without codistill."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from safetensors import SafetensorError
from safetensors.torch import save_file

from codistill.cli import output, parsing
from codistill.cli.existing_store import open_existing
from codistill.errors import RunExistsError
from codistill.exchange.checkpoint import load_snapshot

StoreWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="STORE")]]


def run(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parsing.call(export, arguments, verb="export")


def export(
    store: StoreWord,
    /,
    *,
    peer: str,
    out: Path,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write the newest weights of a peer to a safetensors file, under the names of its state_dict.

    The file loads with safetensors.torch.load_file and model.load_state_dict.

    Args:
        store: The folder that the peers share; `codistill train` keeps it in OUT/ARM/seed-N/exchange.
        peer: Name of the peer.
        out: The file to write.
        overwrite: Replace the file if it is there.
        json: Print JSON.
    """
    if out.is_dir():
        raise IsADirectoryError(f"out must be a file, got the folder {out}. Name a file in it.")
    if out.exists() and not overwrite:
        raise RunExistsError(f"out must be a new file, got {out}. Pass --overwrite to replace it.")
    state, info = load_snapshot(open_existing(store), peer)
    # safetensors refuses names that share memory, and plain load_state_dict wants every name.
    copies = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        save_file(copies, partial, metadata={"format": "pt", "peer": info.peer, "step": str(info.step)})
        partial.replace(out)
    except (SafetensorError, OSError) as e:
        raise OSError(f"out must be a file that can be written, got {out}: {e}. Name another one.") from e
    finally:
        partial.unlink(missing_ok=True)
    if json:
        output.print_json({"out": str(out), "tensors": len(copies), "peer": info.peer, "step": info.step})
        return
    output.print_text(f"{out}: {len(copies)} tensors of peer {info.peer} at step {info.step}")
