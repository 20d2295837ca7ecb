import dataclasses
import json
import re
from pathlib import Path

import pytest

from codistill.cli import main
from codistill.cli import train as train_verb
from codistill.lab import recipes
from codistill.lab.folder import RunFolder
from codistill.lab.launchers.ray import RayLauncher


@pytest.fixture
def launched(monkeypatch, pretend_to_train):
    """Let nothing be trained, and note what would have been."""
    calls = []

    def launch(folder, asked, *, options, on_progress):
        calls.append((asked, options))
        pretend_to_train(folder)
        on_progress(asked[0].label, 100, 100)
        return [one for one in folder.results() if options.peer in (None, one.peer)]

    monkeypatch.setattr(train_verb, "launch", launch)
    return calls


def test_train_trains_the_recipe_and_reports(in_tmp_path, launched, capsys):
    assert main(["train", "digits"]) == 0
    ((asked, options),) = launched
    assert asked == [dataclasses.replace(recipes.recipe("digits"), arm="codistillation")]
    assert (options.data_root, options.device) == (None, "auto")
    out, err = capsys.readouterr()
    assert "75.0" in out
    assert out.endswith("Report: runs/digits/report.html\n")
    assert "codistillation" in err


def test_every_field_of_the_recipe_is_an_option(in_tmp_path, launched):
    words = ["--updates", "20", "--seed", "3", "--method", "all_reduce", "--peers", "1", "--ranks", "4"]
    words += ["--learning-rate-drops", "0.25", "--no-lockstep", "--out", "there", "--device", "cpu"]
    words += ["--peer-widths", "8", "--ranks-per-peer", "4"]
    assert main(["train", "digits", *words, "--data-root", "data here"]) == 0
    (((recipe,), options),) = launched
    assert (recipe.updates, recipe.seed, recipe.method, recipe.peers, recipe.ranks) == (
        20,
        3,
        "all_reduce",
        1,
        4,
    )
    assert (recipe.learning_rate_drops, recipe.lockstep, recipe.peer_widths) == ((0.25,), False, (8,))
    assert (str(options.data_root), options.device) == ("data here", "cpu")
    assert RunFolder("there").document["command"][:3] == ["codistill", "train", "digits"]


def test_one_peer_is_trained_into_a_folder_of_its_own_and_printed(in_tmp_path, launched, capsys):
    words = ["train", "digits", "--ranks-per-peer", "2", "--peer", "b", "--store", "store"]
    assert main(words) == 0
    (((recipe,), options),) = launched
    assert (recipe.peers, recipe.ranks_per_peer, options.peer, options.store) == (2, 2, "b", "store")
    assert capsys.readouterr().out == ("Peer b: accuracy 75.0% after 100 updates.\nResults: runs/digits-b\n")
    assert main([*words, "--overwrite", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["peer"], printed["test_accuracy"], printed["results"]) == ("b", 0.75, "runs/digits-b")


def test_the_command_for_a_big_peer_that_teaches_a_small_one_is_the_page_s(in_tmp_path, launched):
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    (command,) = re.findall(r"```sh\ncodistill (train .* --edges .*)\n```", page)
    for edges, said in ((("a:b",), "a:b"), (("a:b", "b:a"), "a:b b:a")):
        assert f"--edges {said}" in page
        assert main([*command.partition("--edges")[0].split(), "--edges", *edges, "--overwrite"]) == 0
        recipe = launched[-1][0][0]
        assert (recipe.topology, recipe.edges, recipe.peer_widths) == ("directed", edges, (128, 16))


def test_what_would_be_submitted_to_slurm_is_printed_and_nothing_is_made(in_tmp_path, launched, capsys):
    pytest.importorskip("submitit", reason="submitit is not installed")
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    (command,) = re.findall(r"```sh\ncodistill (train .* --dry-run)\n```", page)
    words = command.split()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count("#SBATCH --time=1440\n") == out.count("#SBATCH --partition=gpu\n") == 2
    assert f"{in_tmp_path}/runs/digits/codistillation/logs/slurm" in out
    assert main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(one["arm"], one["peer"]) for one in shown] == [("codistillation", "a"), ("codistillation", "b")]
    assert launched == []
    assert list(in_tmp_path.iterdir()) == []


def test_who_submits_to_slurm_is_told_how_to_find_the_jobs_again(in_tmp_path, launched, capsys, monkeypatch):
    pytest.importorskip("submitit", reason="submitit is not installed")
    (in_tmp_path / "srun").touch(mode=0o755)
    words = ["train", "digits", "--checkpoint-every", "500", "--on", "slurm", "--job", "time=30"]
    monkeypatch.setenv("PATH", "")
    assert main(words) == 2
    assert not (in_tmp_path / "runs").exists()
    assert "srun is not on the PATH" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(in_tmp_path))
    assert main(words) == 0
    assert "the same command with --resume finds them" in capsys.readouterr().err
    assert len(launched) == 1


def test_jobs_go_where_they_are_asked_to(in_tmp_path, launched):
    words = ["--checkpoint-every", "500", "--on", "ray", "--job", "cpus-per-rank=2", "max-failures=5"]
    assert main(["train", "digits", *words]) == 0
    ((_, options),) = launched
    assert options.launcher == RayLauncher(cpus_per_rank=2, max_failures=5)


def test_train_as_json(in_tmp_path, launched, capsys):
    assert main(["train", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["test_accuracy"] == 0.75


def test_another_seed_joins_an_earlier_run_with_resume(in_tmp_path, launched, capsys):
    assert main(["train", "digits"]) == 0
    assert main(["train", "digits", "--seed", "1"]) == 1
    assert main(["train", "digits", "--seed", "1", "--resume"]) == 0
    assert [asked[0].seed for asked, _ in launched] == [0, 1]
    assert RunFolder("runs/digits").seeds == (0, 1)


def test_help_without_a_recipe_says_where_the_recipes_are_listed(capsys):
    assert main(["train", "--help"]) == 0
    assert "RECIPE is a name that codistill recipes lists" in capsys.readouterr().out


def test_what_is_reproduced_and_how_it_deviates_is_said_once_before_training(in_tmp_path, launched, capsys):
    words = ["train", "sodhani2020-s3-control-lab", "--updates", "200", "--data-root", "nowhere"]
    assert main(words) == 1
    assert "Deviates" not in capsys.readouterr().err
    assert main(["train", "digits", "--updates", "200", "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    for line in recipes.entry("digits").lines():
        assert err.count(f"{line}\n") == 1
    assert "Changed by options: updates 200.\n" in err
    assert err.index("Deviates:") < err.index("codistillation ")


def test_a_recipe_of_one_s_own_is_trained_into_the_folder_of_its_name(in_tmp_path, launched, capsys):
    (in_tmp_path / "mine.py").write_text(
        "from codistill.lab.recipe import Recipe\n"
        "recipe = Recipe(name='own', task='digits', method='all_reduce', peers=1)\n"
        "number = 1\n"
    )
    assert main(["train", "mine.py:recipe", "--updates", "20"]) == 0
    ((asked, _),) = launched
    assert (asked[0].name, asked[0].method, asked[0].updates) == ("own", "all_reduce", 20)
    assert "Deviates" not in capsys.readouterr().err
    assert RunFolder("runs/own").arms[0].updates == 20
    assert main(["train", "mine.py:number"]) == 2
    assert "recipe must be a codistill.lab.recipe.Recipe, got a int" in capsys.readouterr().err


def test_teachers_of_two_phases_are_trained_before_their_student(in_tmp_path, launched):
    assert main(["train", "digits", "--method", "two_phase", "--teacher-updates", "30"]) == 0
    assert [(asked[0].method, asked[0].updates) for asked, _ in launched] == [
        ("teachers", 30),
        ("two_phase", 1500),
    ]


def test_a_name_or_device_that_cannot_be_is_noticed_before_a_folder_is_made(in_tmp_path, launched, capsys):
    assert main(["train", "digits", "--name", "../../x"]) == 2
    assert "name must be made of letters" in capsys.readouterr().err
    assert main(["train", "digits", "--device", "foo"]) == 1
    assert "device must be" in capsys.readouterr().err
    assert launched == []
    assert list(in_tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RECIPE is a name that codistill recipes lists"),
        (["--peers", "2"], "The recipe must come first"),
        (["imagenet"], "or FILE.py:NAME, got 'imagenet'"),
        (["digits", "--peers", "0"], "peers must be from 1 to 26, got 0"),
        (["digits", "--method", "sgd"], "all_reduce"),
        (["digits", "--peeers", "2"], "--peeers"),
        (["digits", "--overwrite", "--resume"], "must not be given together"),
        (["digits", "--peer", "c", "--store", "s"], "peer must be one of a, b, got 'c'"),
        (["digits", "--peer", "a"], "store must be given with peer 'a'"),
        (["digits", "--store", "s"], "peer must be given with a store"),
        (["digits", "--on", "pbs"], "slurm"),
        (["digits", "--job", "time=30"], "job must be left out on local"),
        (["digits", "--dry-run"], "dry_run must be left out on local"),
        (["digits", "--on", "slurm"], "job must name a time on slurm"),
        (["digits", "--on", "slurm", "--job", "time=30"], "checkpoint_every must be given on slurm"),
        (["digits", "--on", "ray"], "checkpoint_every must be given on ray"),
    ],
)
def test_wrong_usage_says_what_is_right_and_makes_no_folder(in_tmp_path, launched, capsys, words, said):
    assert main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in " ".join(err.split())
    assert launched == []
    assert list(in_tmp_path.iterdir()) == []


@pytest.mark.spawn
def test_two_real_processes_train_and_are_looked_at(in_tmp_path, capsys):
    # The line of README.md, quick-start.md and running.md, of few updates.
    words = ["--peers", "2", "--updates", "20", "--evaluate-every", "10", "--device", "cpu", "--out", "out"]
    assert main(["train", "digits", *words, "--trackers", "--json"]) == 0, capsys.readouterr().err
    store = "out/codistillation/seed-0/exchange"
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["arm"] == "codistillation"
    assert main(["peers", store, "--json"]) == 0
    peers = json.loads(capsys.readouterr().out)
    assert [(peer["peer"], peer["step"], peer["state"]) for peer in peers] == [
        ("a", 20, "finished"),
        ("b", 20, "finished"),
    ]
    assert main(["export", store, "--peer", "b", "--out", "model.safetensors"]) == 0
    assert main(["report", "out"]) == 0
