"""What is not tried here says so, and is at least of the form that its system reads."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TEMPLATES = ("kubernetes.yaml", "ray_peers.py", "slurm.sbatch")
MARK = "A template, not tried here"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_that_it_was_not_tried_and_so_does_the_page_that_names_it(name: str) -> None:
    assert MARK in (EXAMPLES / name).read_text()
    page = (EXAMPLES.parent / "docs" / "running.md").read_text()
    (row,) = re.findall(rf"^\|.*\({re.escape(f'../examples/{name}')}\).*$", page, re.MULTILINE)
    assert row.endswith("| template, not tried here |")


def test_nothing_else_is_a_template() -> None:
    marked = [path.name for path in EXAMPLES.iterdir() if path.is_file() and MARK in path.read_text()]
    assert sorted(marked) == sorted(TEMPLATES)


def test_the_templates_can_be_parsed() -> None:
    ast.parse((EXAMPLES / "ray_peers.py").read_text())
    bash = shutil.which("bash")
    if bash is not None:
        subprocess.run([bash, "-n", EXAMPLES / "slurm.sbatch"], check=True)


def test_the_manifest_has_a_job_a_peer_that_is_replaced_and_goes_on_from_its_own_volume() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    jobs = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    assert [job["metadata"]["name"] for job in jobs] == ["peer-a", "peer-b"]
    for job, peer in zip(jobs, "ab", strict=True):
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        # The API refuses a policy beside any other.
        assert pod["restartPolicy"] == "Never"
        assert spec["podFailurePolicy"]["rules"] == [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        ]
        assert spec["backoffLimit"] > 0
        (container,) = pod["containers"]
        options = dict(zip(container["args"][1::2], container["args"][2::2], strict=True))
        assert (options["--peer"], options["--store"]) == (peer, "s3://bucket/run-7")
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claim = volumes[mounts[options["--checkpoints"]]]["persistentVolumeClaim"]["claimName"]
        assert claim == f"peer-{peer}-checkpoints"
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
        assert {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"} in container["env"]
    # All else is alike.
    text = (EXAMPLES / "kubernetes.yaml").read_text().partition("\n---\n")
    parts = [yaml.safe_load(part) for part in (text[0], text[2].replace("peer-b", "peer-a"))]
    parts[1]["spec"]["template"]["spec"]["containers"][0]["args"][2] = "a"
    assert parts[0] == parts[1]


def test_the_page_on_kubernetes_explains_the_fields_that_the_manifest_has() -> None:
    page = (EXAMPLES.parent / "docs" / "kubernetes.md").read_text()
    named = re.findall(r"^\| `([A-Za-z-]+)", page, re.MULTILINE)
    manifest = (EXAMPLES / "kubernetes.yaml").read_text()
    assert len(named) >= 6
    assert [name for name in named if name not in manifest] == []


def test_the_batch_script_starts_torchrun_on_every_node_of_its_job(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    for name, line in (("srun", 'printf "%s\\n" "$@"'), ("scontrol", 'printf "node-4\\nnode-5\\n"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PEER": "a", "STORE": "s3://bucket/run-7"}
    slurm = {"JOB_ID": "17", "JOB_NODELIST": "node-[4-5]", "NNODES": "2", "GPUS_ON_NODE": "8"}
    slurm |= {"SUBMIT_DIR": "/home/user"}
    done = subprocess.run(
        [bash, EXAMPLES / "slurm.sbatch"],
        env=variables | {f"SLURM_{name}": value for name, value in slurm.items()},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[0] == "torchrun"
    assert {"--nnodes=2", "--nproc-per-node=8", "--rdzv-id=17", "--rdzv-endpoint=node-4:29500"} <= set(words)
    assert words[-7:] == [
        *("examples/ddp_peer.py", "--peer", "a", "--store", "s3://bucket/run-7"),
        *("--checkpoints", "/home/user/checkpoints"),
    ]
