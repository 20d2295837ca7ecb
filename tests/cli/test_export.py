import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from codistill.cli import main


def test_export_loads_without_codistill_under_every_name(store_path, tied_model, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert main(["export", str(store_path), "--peer", "a", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 4 tensors of peer a at step 2\n"
    state = load_file(out)
    assert set(state) == {"body.weight", "head.weight", "head.bias", "seen"}
    other = type(tied_model)()
    other.load_state_dict(state, strict=True)
    for name, tensor in tied_model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "peer": "a", "step": "2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "store"]


def test_export_keeps_a_file_that_is_there(store_path, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    out.write_text("mine")
    assert main(["export", str(store_path), "--peer", "a", "--out", str(out)]) == 1
    assert "Pass --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["export", str(store_path), "--peer", "a", "--out", str(out), "--overwrite"]) == 0
    assert "body.weight" in load_file(out)


def test_export_of_an_unknown_peer_lists_those_there_are(store_path, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert main(["export", str(store_path), "--peer", "z", "--out", str(out)]) == 1
    assert "got 'z'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("words", [[], ["--peer", "a"], ["--out", "x"]])
def test_export_needs_store_peer_and_out(words, capsys):
    assert main(["export", *words]) == 2
    assert capsys.readouterr().err != ""


def test_export_to_a_folder_that_is_not_there_fails_in_one_line(store_path, tmp_path, capsys):
    out = tmp_path / "missing" / "model.safetensors"
    assert main(["export", str(store_path), "--peer", "a", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "missing" in err


def test_export_as_json_says_what_was_written(store_path, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert main(["export", store_path.as_uri(), "--peer", "a", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "tensors": 4, "peer": "a", "step": 2}
    assert out.is_file()


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_export_to_a_folder_says_that_a_file_is_needed(store_path, tmp_path, capsys, more):
    out = tmp_path / "folder"
    out.mkdir()
    assert main(["export", str(store_path), "--peer", "a", "--out", str(out), *more]) == 1
    assert capsys.readouterr().err == (
        f"codistill: out must be a file, got the folder {out}. Name a file in it.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "store"]
