"""What is published: a wheel, a source distribution, and what stands beside them."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from codistill.version import __version__

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "codistill"

# Packages whose public names need an extra, or pytest.
WITH_EXTRAS = {"codistill.server", "codistill.testing"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution, as the build backend makes them, without a network."""
    folder = tmp_path_factory.mktemp("built")
    program = "import sys; from hatchling import build; print(build.build_sdist(sys.argv[1])); "
    program += "print(build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sdist, wheel = done.stdout.split()
    return folder / wheel, folder / sdist


@pytest.fixture(scope="module")
def bare(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and what it requires without extras, and nothing else.

    What it requires is linked from where it is installed: PyTorch takes minutes to install.
    """
    wheel, _ = built
    environment = tmp_path_factory.mktemp("bare")
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    (site,) = environment.glob("lib/python*/site-packages")
    for name in required(wheel):
        distribution = metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    pip = [sys.executable, "-m", "pip", "--python", str(environment), "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)])
    return environment


def required(wheel: Path) -> set[str]:
    """Return the names of all distributions that a wheel needs without its extras, directly or not."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        waiting = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    found: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


def run(command: list[str], *, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(sys.prefix),
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.spawn
def test_the_wheel_holds_the_package_its_data_and_its_license_and_nothing_else(
    built: tuple[Path, Path],
) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = set(archive.namelist())
    info = f"codistill-{__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    inside = {name for name in names if not name.startswith(f"{info}/")}
    there = {
        f"codistill/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == there
    assert {
        "codistill/py.typed",
        "codistill/lab/report/report.html.j2",
        "codistill/lab/recipes/demo_grid.json",
        "codistill/lab/experiments/results/S1-S3.json",
    } <= inside


@pytest.mark.spawn
def test_the_source_distribution_holds_what_its_own_tests_read(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not {name for name in names if "__pycache__" in name or name.startswith(("runs/", ".venv/"))}
    assert {
        ".ci/run",
        ".github/workflows/checks.yaml",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "docs/extending.md",
        "examples/three_lines.py",
        "pyproject.toml",
        "src/codistill/py.typed",
        "tests/plugins/sample/pyproject.toml",
        "tests/test_packaging.py",
    } <= names


@pytest.mark.spawn
def test_without_extras_every_public_name_is_there_and_two_peers_train(bare: Path, tmp_path: Path) -> None:
    python = str(bare / "bin" / "python")
    example = ROOT / "examples" / "three_lines.py"
    peers = {
        peer: subprocess.Popen(
            [python, "-I", str(example), "--peer", peer, "--store", str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for peer in "ab"
    }
    try:
        printed = {peer: job.communicate(timeout=100) for peer, job in peers.items()}
    finally:
        for job in peers.values():
            job.kill()
            job.wait()
    for peer, (out, err) in printed.items():
        assert peers[peer].returncode == 0, err
        assert "after 300 steps" in out
    packages = {".".join(("codistill", *path.relative_to(SOURCE).parts[:-1])) for path in public_packages()}
    lines = ["import importlib.util", "import codistill", "print(codistill.__file__)"]
    lines += [f"from {package} import *" for package in sorted(packages - WITH_EXTRAS)]
    absent = ("pytest", "rich", "sklearn", "scipy", "tyro", "urllib3")
    lines += [f"assert importlib.util.find_spec({name!r}) is None" for name in absent]
    done = run([python, "-I", "-c", "\n".join(lines)])
    assert done.stdout.startswith(str(bare))


def public_packages() -> list[Path]:
    """Return the `__init__.py` of each package below the laboratory that lists public names."""
    above = {"cli", "integrations", "lab", "watch"}
    return [
        path
        for path in SOURCE.rglob("__init__.py")
        if "\n__all__ = " in path.read_text() and path.relative_to(SOURCE).parts[0] not in above
    ]


@pytest.mark.spawn
def test_without_extras_the_command_line_tells_its_version_and_the_extra_it_wants(bare: Path) -> None:
    codistill = str(bare / "bin" / "codistill")
    assert run([codistill, "--version"]).stdout == f"codistill {__version__}\n"
    done = run([codistill, "demo"], code=2)
    assert done.stdout == ""
    assert (
        done.stderr
        == "codistill: The command line needs packages of an extra. Run: pip install 'codistill[cli]'\n"
    )


def test_the_citation_names_this_version_and_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == __version__
    papers = {paper["identifiers"][0]["value"]: paper for paper in citation["references"]}
    assert set(papers) == {"arXiv:1804.03235", "arXiv:2010.02838"}
    readme = (ROOT / "README.md").read_text()
    for paper in papers.values():
        assert paper["url"] in readme
        assert {"type", "title", "authors", "year"} <= set(paper)
        assert all({"family-names", "given-names"} == set(author) for author in paper["authors"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "workflows").glob("*.yaml")), ids=lambda p: p.name
)
def test_workflows_call_make_targets_that_exist_and_pin_their_actions(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called: set[str] = set()
    for job in jobs.values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v[0-9]+", step["uses"])
            for target in re.findall(r"^make (.*)$", step.get("run", ""), re.MULTILINE):
                matrix = job["strategy"]["matrix"]["target"]
                called |= set(matrix) if target == "${{ matrix.target }}" else set(target.split())
    assert {"check", "test", "docs"} <= called
    assert called <= targets


def test_pages_and_code_name_extras_that_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *SOURCE.rglob("*.py")]
    for file in files:
        for named in re.findall(r"codistill\[([a-z0-9,]+)\]", file.read_text()):
            assert set(named.split(",")) <= extras, file
    for file in SOURCE.rglob("*.py"):
        for named in re.findall(r"(?:require|check_installed)\(\s*\"[\w.]+\", \"(\w+)\"\)", file.read_text()):
            assert named in extras, file
