"""Who may import whom: docs/architecture.md, section "Layers"."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import codistill

SOURCE = Path(codistill.__file__).parent

FLOORS = {
    "version": 0,
    "errors": 0,
    "arguments": 0,
    "partitions": 0,
    "plugins": 0,
    "caller": 1,
    "extras": 1,
    "schedules": 1,
    "topologies": 1,
    "losses": 1,
    "metrics": 1,
    "data": 2,
    "snapshots": 2,
    "stores": 2,
    "parallel": 2,
    "fragments": 1,
    "exchange": 3,
    "divergence_guard": 4,
    "advisor": 4,
    "agreement_meter": 4,
    "checkup": 4,
    "step_report": 4,
    "tally": 4,
    "codistiller": 4,
    "mutual": 4,
    "planner": 4,
    "integrations": 5,
    "server": 5,
    "testing": 5,
    "watch": 5,
    "lab": 5,
    "cli": 6,
    "__main__": 7,
}
# Files of one floor that may import one another: together they are the face.
TOGETHER = (
    {"codistiller", "advisor", "agreement_meter", "checkup", "divergence_guard", "step_report", "tally"},
)


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return ".".join(("codistill", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_room_imports_only_rooms_on_floors_below(path: Path) -> None:
    own = room_of(path)
    assert own in FLOORS, f"give {own} a floor"
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package != "codistill":
            continue
        other = rest.partition(".")[0]
        assert other in FLOORS, f"{path} imports {name}: import the module, never the root"
        is_below = FLOORS[other] < FLOORS[own]
        assert other == own or is_below or any({own, other} <= rooms for rooms in TOGETHER), (
            f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"
        )


def imports_at_run_time(path: Path) -> Iterator[str]:
    """Yield what is imported when the module is, without what only a type checker reads."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not is_for_types:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_modules_do_not_import_one_another_in_a_circle() -> None:
    names = {name_of(path): path for path in modules()}
    graph = {}
    for name, path in names.items():
        targets = set()
        for imported in imports_at_run_time(path):
            module = imported if imported in names else imported.rpartition(".")[0]
            if module in names and module != name:
                targets.add(module)
        graph[name] = targets
    visited: dict[str, bool] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join((*trail, name))}"
        if not visited.get(name):
            for target in graph[name]:
                visit(target, (*trail, name))
            visited[name] = True

    for name in graph:
        visit(name, ())


MAY_USE_TORCH_DISTRIBUTED = {"parallel", "testing", "lab"}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_torch_distributed_is_used_in_parallel_and_above_only(path: Path) -> None:
    uses = [name for name in imports(path) if name.startswith("torch.distributed")]
    uses += [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed")
    ]
    assert not uses or room_of(path) in MAY_USE_TORCH_DISTRIBUTED, f"{path} uses {uses}"


def origins_of_names(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what each imported name stands for, such as np for numpy."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in {"pickle", "cloudpickle", "dill", "marshal", "shelve"}, (path, name)
    origins = dict(origins_of_names(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            called = (
                origins.get(called.split(".")[0], called.split(".")[0]) + called[len(called.split(".")[0]) :]
            )
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load":
                assert keywords.get("weights_only") == "True", f"{path}: {ast.unparse(node)}"
            if called == "numpy.load":
                assert keywords.get("allow_pickle") == "False", f"{path}: {ast.unparse(node)}"
            assert called not in {"eval", "exec"}, f"{path}: {ast.unparse(node)}"
