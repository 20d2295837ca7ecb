"""The commands of examples/two_clusters.md, run as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMANDS = re.findall(r"```sh\n(.*?)\n```", (ROOT / "examples" / "two_clusters.md").read_text(), re.DOTALL)
TIMEOUT_S = 200
# What differs where it is run: the folder, this machine's name, which may not resolve, and how it exits.
SUBSTITUTES = {
    "torchrun --standalone": "torchrun --standalone --local-addr=127.0.0.1",
    "examples/ddp_peer.py": shlex.join(
        map(str, [HERE / "run_example.py", ROOT / "examples" / "ddp_peer.py"])
    ),
}


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """An S3 server with one bucket, ``bucket``, as a process finds it: through its environment."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'codistill[s3]'")
    pytest.importorskip("moto", reason="moto is not installed: pip install 'codistill[dev]'")
    program = ROOT / "tests" / "stores" / "s3_server.py"
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as server:
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
            yield {
                **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                "AWS_ACCESS_KEY_ID": "AKIAFAKEFAKEFAKEFAKE",
                "AWS_SECRET_ACCESS_KEY": "fake/Secret+0123456789",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AWS_ENDPOINT_URL": url,
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            }
        finally:
            server.terminate()


def run(commands: list[str], folder: Path, environment: dict[str, str]) -> list[str]:
    """Run commands side by side, and return what each printed."""
    for written, here in SUBSTITUTES.items():
        commands = [command.replace(written, here) for command in commands]
    jobs = [
        subprocess.Popen(
            ["env", *shlex.split(command)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        printed = [job.communicate(timeout=TIMEOUT_S) for job in jobs]
    finally:
        for job in jobs:
            # What torchrun has started ends with it only if it may end in order.
            job.terminate()
            job.wait()
            job.stdout.close()
            job.stderr.close()
    assert [job.returncode for job in jobs] == [0] * len(jobs), printed
    return [out for out, _ in printed]


@pytest.mark.spawn
def test_two_peers_of_two_ranks_meet_in_a_bucket(tmp_path: Path, environment: dict[str, str]) -> None:
    torchrun = [command for command in COMMANDS if " torchrun " in command]
    train = [command for command in COMMANDS if command.startswith("codistill train")]
    look = [command for command in COMMANDS if command.startswith("codistill peers")]
    assert len(torchrun) == len(train) == 2
    assert len(torchrun) + len(train) + len(look) == len(COMMANDS)

    said = run([*torchrun, *train], tmp_path, environment)
    for out in said[:2]:
        taught = re.search(r"after 300 steps of 2 ranks, (\d+)% of them with a teacher", out)
        # A snapshot that a slow store holds up is quarantined once it has been bad for three intervals of 50.
        assert 50 <= int(taught[1]) <= 100
    for peer, out in zip("ab", said[2:], strict=True):
        assert out.startswith(f"Peer {peer}: accuracy ")
        assert out.endswith(f"after 100 updates, 100% of them with a teacher.\nResults: runs/digits-{peer}\n")
        result = tmp_path / "runs" / f"digits-{peer}" / "codistillation" / "seed-0" / peer / "result.json"
        assert json.loads(result.read_text())["samples"] == 100 * 32

    peers = json.loads(run([f"{look[0]} --json"], tmp_path, environment)[0])
    assert [(peer["peer"], peer["step"], peer["samples"], peer["state"]) for peer in peers] == [
        (name, 300, 300 * 64, "finished") for name in "ab"
    ]
