"""What importing costs, counted in modules: seconds depend on the machine."""

import json
import subprocess
import sys

import pytest

# What a run that meets in a folder never needs.
NEVER = {
    "PIL", "aiohttp", "fsspec", "gcsfs", "jinja2", "lightning", "matplotlib", "paramiko", "pytest", "ray",
    "rich", "s3fs", "scipy", "sklearn", "starlette", "submitit", "tensorboard", "tokenizers",
    "torchmetrics", "transformers", "tyro", "urllib3", "uvicorn",
}  # fmt: skip


def newly_loaded(program: str, *, before: str = "") -> set[str]:
    """Return what a program loads in a new process, beyond what other lines had loaded before it."""
    lines = (
        "import json, sys",
        before,
        "there = set(sys.modules)",
        program,
        "print(json.dumps(sorted(set(sys.modules) - there)), file=sys.stderr)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr))


def packages(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.spawn
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["no_such_verb"]])
def test_the_command_line_shows_its_verbs_with_four_modules_of_ours(words: list[str]) -> None:
    # A wrong verb says so on standard error, where the modules are listed too.
    program = f"from codistill.cli import main\nsys.stderr, err = sys.stdout, sys.stderr\nmain({words})"
    loaded = newly_loaded(f"{program}\nsys.stderr = err")
    assert {module for module in loaded if module.startswith("codistill")} == {
        "codistill",
        "codistill.cli",
        "codistill.cli.entry",
        "codistill.cli.usage",
        "codistill.errors",
        "codistill.version",
    }
    assert not packages(loaded) & {*NEVER, "torch", "numpy", "safetensors"}


@pytest.mark.spawn
@pytest.mark.parametrize("words", [["recipes", "--help"], ["recipes", "show", "digits"]])
def test_looking_at_recipes_loads_the_parser_and_no_pytorch(words: list[str]) -> None:
    loaded = packages(newly_loaded(f"from codistill.cli import main\nmain({words})"))
    assert {"tyro", "rich"} <= loaded
    assert not loaded & ({*NEVER, "torch", "numpy"} - {"tyro", "rich"})


@pytest.mark.spawn
def test_the_root_loads_nothing_before_a_name_is_used() -> None:
    loaded = newly_loaded("import codistill\ncodistill.errors\ncodistill.CodistillError\ndir(codistill)")
    assert {module for module in loaded if module.startswith("codistill")} == {
        "codistill",
        "codistill.errors",
        "codistill.version",
    }
    assert not packages(loaded) & {*NEVER, "torch", "numpy", "safetensors"}


@pytest.mark.spawn
def test_a_peer_with_a_folder_loads_no_package_but_safetensors_beside_pytorch() -> None:
    program = "from codistill import CheckpointExchange, Codistiller, Membership\n"
    program += "from codistill.stores import open_store\nimport tempfile\nopen_store(tempfile.mkdtemp())"
    loaded = newly_loaded(program, before="import torch, numpy, tempfile")
    # The standard library and numpy's own parts apart.
    foreign = packages(loaded) - set(sys.stdlib_module_names) - {"codistill", "numpy"}
    assert {name for name in foreign if not name.startswith(("_", "cython"))} <= {"safetensors"}
    assert not {module for module in loaded if module.startswith(("codistill.lab", "codistill.cli"))}
    assert not loaded & {"codistill.stores.remote", "codistill.stores.sftp"}


@pytest.mark.spawn
def test_every_public_name_together_loads_no_package_of_an_extra() -> None:
    loaded = newly_loaded("from codistill import *", before="import torch")
    assert not packages(loaded) & NEVER
