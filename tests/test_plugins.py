"""Losses, stores and tasks of other packages, one of which pip really installs."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from codistill import CheckpointExchange, Codistiller, Divergence, Membership, plugins
from codistill.errors import RecipeError
from codistill.lab import tasks
from codistill.lab.recipe import Recipe
from codistill.losses import as_divergence, kl_divergence
from codistill.stores import MemoryStore, Store, open_store
from codistill.testing import StoreContract, check_divergence

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "plugins" / "sample"

Declare = Callable[..., None]


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Return a function that makes a package with one entry point and puts it on the path."""

    def make(group: str, name: str, source: str, *, package: str = "odd", value: str = "") -> None:
        module = f"plugin_{package}"
        folder = tmp_path / package
        info = folder / f"{package}-2.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value or f'{module}:thing'}\n")
        (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        # Undone at the end, so that no other test finds the module of this one.
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, module)

    return make


@pytest.mark.parametrize(
    ("group", "use"),
    [
        ("codistill.losses", as_divergence),
        ("codistill.stores", lambda name: open_store(f"{name}://user:secret@host/x")),
        ("codistill.tasks", tasks.task_class),
    ],
)
class TestEveryGroup:
    def test_a_plug_in_that_cannot_be_imported_is_named_with_its_package(
        self, declare: Declare, group: str, use: Callable[[str], object]
    ) -> None:
        declare(group, "odd", "import no_such_package_anywhere\n")
        with pytest.raises(ValueError, match="got ModuleNotFoundError: No module named") as caught:
            use("odd")
        assert str(caught.value).startswith(f"{group} 'odd' must be importable, ")
        assert str(caught.value).endswith(
            "Mend or remove package odd 2.1, which declares it as 'plugin_odd:thing'."
        )

    def test_a_plug_in_whose_module_lacks_it_is_named_with_its_package(
        self, declare: Declare, group: str, use: Callable[[str], object]
    ) -> None:
        declare(group, "odd", "")
        with pytest.raises(ValueError, match=r"got AttributeError: .*package odd 2\.1"):
            use("odd")

    @pytest.mark.parametrize("source", ["thing = 3\n", "class thing: pass\n"])
    def test_a_plug_in_of_another_type_is_named_with_its_package_and_without_secrets(
        self, declare: Declare, group: str, use: Callable[[str], object], source: str
    ) -> None:
        declare(group, "odd", source.replace("pass", "__init__ = lambda self, *words: None"))
        with pytest.raises(ValueError, match=r"odd' must .*, got .*package odd 2\.1") as caught:
            use("odd")
        assert "secret" not in str(caught.value)

    def test_two_packages_with_one_name_are_both_named(
        self, declare: Declare, group: str, use: Callable[[str], object]
    ) -> None:
        declare(group, "odd", "thing = 3\n")
        declare(group, "odd", "thing = 4\n", package="even")
        with pytest.raises(
            ValueError, match=r"'odd' must be declared by one package, got even 2\.1 and odd 2\.1\. Remove"
        ):
            use("odd")

    def test_an_unknown_name_lists_plug_ins_beside_ours_and_imports_none(
        self, declare: Declare, group: str, use: Callable[[str], object]
    ) -> None:
        declare(group, "odd", "raise AssertionError\n")
        ours = {"codistill.losses": "'kl'", "codistill.stores": "s3://", "codistill.tasks": "digits"}[group]
        with pytest.raises(ValueError, match=r"must be .*odd") as caught:
            use("even")
        assert ours in str(caught.value)
        assert plugins.names(group) == ("odd",)
        assert "plugin_odd" not in sys.modules


@pytest.mark.parametrize(
    ("group", "name", "use"),
    [
        ("codistill.losses", "kl", lambda: as_divergence("kl").function is kl_divergence),
        ("codistill.stores", "memory", lambda: open_store("memory://x").describe() == "memory://x"),
        ("codistill.tasks", "digits", lambda: tasks.task_class("digits").__module__.startswith("codistill.")),
    ],
)
def test_no_package_can_take_a_name_of_ours(
    declare: Declare, group: str, name: str, use: Callable[[], bool]
) -> None:
    declare(group, name, "raise AssertionError\n")
    assert use()


def test_a_recipe_may_name_a_plug_in_s_task_which_is_imported_later(declare: Declare) -> None:
    declare("codistill.tasks", "odd", "raise AssertionError\n")
    assert Recipe(name="odd", task="odd").task == "odd"
    with pytest.raises(RecipeError, match=r"task must be one of 'adult', .* 'odd', .*got 'even'"):
        Recipe(name="even", task="even")


def test_a_bare_function_acts_on_logits_as_one_of_your_own_does(declare: Declare) -> None:
    declare(
        "codistill.losses", "odd", "def thing(student, teacher): return (student - teacher).abs().sum(-1)\n"
    )
    divergence = as_divergence("odd")
    assert (divergence.name, divergence.acts_on, divergence.is_pointwise) == ("odd", "logits", False)
    assert divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).tolist() == [3.0]
    assert Divergence("odd", acts_on="probabilities", temperature=2.0).temperature == 2.0


def test_a_package_s_divergence_keeps_its_settings_unless_others_are_given(declare: Declare) -> None:
    declare(
        "codistill.losses",
        "odd",
        "from codistill.losses import Divergence\nthing = Divergence('kl', temperature=3.0, class_dim=1)\n",
    )
    kept = as_divergence("odd")
    assert (kept.name, kept.temperature, kept.class_dim, kept.takes_sparse) == ("odd", 3.0, 1, True)
    other = Divergence("odd", temperature=2.0, class_dim=0)
    assert (other.temperature, other.class_dim) == (2.0, 0)
    with pytest.raises(ValueError, match="acts_on must be 'probabilities' for 'odd', got 'logits'"):
        Divergence("odd", acts_on="logits")


def test_a_store_may_be_made_by_a_function(declare: Declare) -> None:
    source = "from codistill.stores import MemoryStore\ndef thing(url): return MemoryStore()\n"
    declare("codistill.stores", "odd", source)
    assert isinstance(open_store("ODD://x"), MemoryStore)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample package, installed by pip into a folder of its own, without a network."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--disable-pip-version-check", "--target", str(target), str(SAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def sample(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sample package on this process's path, and off it again."""
    monkeypatch.syspath_prepend(installed)
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == "codistill_sample"]:
        del sys.modules[module]


@pytest.mark.spawn
@pytest.mark.usefixtures("sample")
class TestTheStoreOfAnInstalledPackage(StoreContract):
    # Each call waits for a disk.
    rounds = 3

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return open_store(f"sample://{tmp_path}/store")


@pytest.mark.spawn
@pytest.mark.usefixtures("sample")
def test_the_loss_of_an_installed_package_keeps_the_contract() -> None:
    check_divergence(as_divergence("sample_loss"), allows_masked_classes=False)


@pytest.mark.spawn
@pytest.mark.usefixtures("sample")
def test_a_peer_learns_from_another_through_an_installed_package(tmp_path: Path) -> None:
    url = f"sample://{tmp_path}/store"
    torch.manual_seed(0)
    inputs, targets = torch.randn(16, 4), torch.randint(3, (16,))
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    # What it publishes when it is closed stays in the store.
    with Codistiller(teacher, CheckpointExchange(url, peer="b"), distillation_loss="sample_loss") as first:
        first.loss(teacher(inputs), inputs)
        first.step()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    membership = Membership(start_with_peers=1, start_timeout_s=60)
    exchange = CheckpointExchange(url, peer="a", membership=membership)
    with Codistiller(student, exchange, distillation_loss="sample_loss") as codistiller:
        logits = student(inputs)
        term = codistiller.loss(logits, inputs)
        (cross_entropy(logits, targets) + term).backward()
        optimizer.step()
        report = codistiller.step()
    assert 0.0 < term.item() < 1.0
    assert list(report.teachers) == ["b"]


@pytest.mark.spawn
def test_the_command_line_trains_on_an_installed_package_s_task(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from codistill.lab.recipe import Recipe\n"
        "recipe = Recipe(name='own', task='sample_task', distillation_loss='sample_loss', updates=40,\n"
        "    batch_size=32, interval_steps=5, evaluate_every=20, temperature=2.0)\n"
    )
    command = [sys.executable, "-m", "codistill", "train", "own.py:recipe", "--json", "--trackers"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "own" / "report.html").is_file()


def test_the_page_shows_the_sample_package_as_it_is() -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    shown = re.findall(r"```(?:python|toml)\n(.*?)```", page, re.DOTALL)
    for file in ("losses.py", "stores.py", "tasks.py"):
        assert (SAMPLE / "codistill_sample" / file).read_text() in shown
    assert (SAMPLE / "pyproject.toml").read_text() in shown
