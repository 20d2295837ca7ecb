"""``codistill serve``: answer students' batches with what the peers of a store would predict."""

import importlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import torch
import tyro

from codistill.cli import output, parsing
from codistill.cli.existing_store import open_existing
from codistill.cli.usage import UsageError
from codistill.exchange.teacher_options import TeacherOptions
from codistill.server import Answering, Limits, Listening, PredictionServer

DONE, FAILED = 0, 1

_LOOK_S = 0.5

StoreWord = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="STORE")]]


def run(arguments: Sequence[str]) -> int:
    """Run the verb; return its exit code."""
    return parsing.call(serve, arguments, verb="serve")


def serve(
    store: StoreWord,
    /,
    *,
    model: str,
    outputs_to_logits: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    token_file: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None,
    peers: tuple[str, ...] = (),
    max_peers: int = 4,
    max_batch: int = 1024,
    max_integers: int = 2**16,
    max_body_bytes: int = 2**26,
    integers_below: int | None = None,
    no_merging: bool = False,
    signing_key_file: Path | None = None,
    poll_s: float = 5.0,
    json: bool = False,
) -> int:
    """Follow the peers of a store, and answer batches with their predictions, until it is interrupted.

    Students ask by ServedExchange(URL). Needs the extra "serve".

    Args:
        store: The folder that the peers share, or its URL; only read.
        model: What makes a peer's model, as module:function; it is given a SnapshotInfo. The module is looked
            for in the working folder first.
        outputs_to_logits: What turns a model's outputs into logits, as module:function.
        host: Where to listen. Elsewhere than on this machine alone, a token and a certificate are required.
        port: 0 takes any that is free.
        token_file: Holds what students must know.
        certificate: The server's certificate, PEM.
        key: Its private key, PEM.
        device: Where the models are, such as "cuda:1".
        dtype: Floating dtype of the models; their own if not given.
        peers: Whom to serve; whoever publishes, if not given.
        max_peers: The most models to hold.
        max_batch: The most samples of a question, and of several that are answered at once.
        max_integers: The most whole numbers, such as tokens, of the same.
        max_body_bytes: The largest question.
        integers_below: Whole numbers must be at least 0 and below this; by default what the models'
            embeddings have.
        no_merging: Answer every question by itself.
        signing_key_file: The key that the peers sign with.
        poll_s: Seconds between two looks at the store.
        json: Print JSON.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("codistill.server").setLevel(logging.INFO)
    opened = open_existing(store)
    server = PredictionServer(
        opened,
        teachers=TeacherOptions(
            build=_function(model, "--model"),
            device=device,
            dtype=None if dtype is None else getattr(torch, dtype),
            max_teachers=max_peers,
        ),
        listening=Listening(host=host, port=port, token_file=token_file, certificate=certificate, key=key),
        limits=Limits(
            max_batch=max_batch,
            max_integers=max_integers,
            max_body_bytes=max_body_bytes,
            max_pending_bytes=max(Limits().max_pending_bytes, max_body_bytes),
        ),
        answering=Answering(
            outputs_to_logits=None
            if outputs_to_logits is None
            else _function(outputs_to_logits, "--outputs-to-logits"),
            integers_below=integers_below,
            is_merging=not no_merging,
        ),
        peers=peers or None,
        signing_key_file=signing_key_file,
        poll_s=poll_s,
    )
    end = threading.Event()

    def ask_to_end(_: int, __: FrameType | None) -> None:
        end.set()

    before = {number: signal.signal(number, ask_to_end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with server:
            if json:
                output.print_json({"url": server.url})
            else:
                output.print_text(f"Serving the peers of {store} at {server.url}")
            sys.stdout.flush()
            while not end.wait(_LOOK_S) and not server.is_broken:
                pass
            return FAILED if server.is_broken else DONE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        opened.close()


def _function(words: str, flag: str) -> Callable[[Any], Any]:
    """Return what module:function names.

    Raises:
        UsageError: If there is no such function.
    """
    module, _, name = words.partition(":")
    if not module or not name:
        raise UsageError(f"{flag} must be module:function, got {words!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as e:
        raise UsageError(f"{flag} must be a function that can be imported, got {words!r}: {e}.") from e
    if not callable(found):
        raise UsageError(f"{flag} must be a function, got {words!r}, which is a {type(found).__name__}.")
    function: Callable[..., Any] = found
    return function
