"""``lightning-seq recipes`` and the console script around it."""

import subprocess
import sys

import pytest

import lightning_seq
from lightning_seq import recipes
from lightning_seq.__main__ import main


def test_list_shows_every_recipe_with_its_first_line(capsys):
    assert main(["recipes"]) == main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[len(lines) // 2 :] == lines[: len(lines) // 2]
    found = [line.split()[0] for line in lines[: len(lines) // 2] if "  " in line]
    assert found == [*recipes.names(), *recipes.fragments(), *recipes.sweeps()]
    assert all(
        recipes.description(name) in line for name in found for line in lines if line.split(" ")[0] == name
    )


def test_show_prints_the_recipe(capsys):
    assert main(["recipes", "show", "quickstart"]) == 0
    assert capsys.readouterr().out == (recipes.directory() / "quickstart.yaml").read_text()


def test_copy_writes_a_new_file_and_overwrites_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "copy", "quickstart"]) == 0
    assert (tmp_path / "quickstart.yaml").read_text() == recipes.find("quickstart").read_text()
    (tmp_path / "quickstart.yaml").write_text("mine")
    assert main(["recipes", "copy", "quickstart"]) == 1
    assert "quickstart.yaml exists already" in capsys.readouterr().err
    assert (tmp_path / "quickstart.yaml").read_text() == "mine"
    (tmp_path / "sub").mkdir()
    assert (
        main(["recipes", "copy", "quickstart", "sub"])
        == main(["recipes", "copy", "quickstart", "b.yaml"])
        == 0
    )
    assert (tmp_path / "sub/quickstart.yaml").exists()
    assert (tmp_path / "b.yaml").exists()
    assert main(["recipes", "copy", "quickstart", "no/such/x.yaml"]) == 1


def test_unknown_names_are_met_with_a_guess(capsys):
    assert main(["recipes", "show", "quickstartt"]) == 1
    assert "no recipe 'quickstartt' (did you mean 'quickstart'?)" in capsys.readouterr().err
    assert main(["recipe"]) == 2
    assert "no command 'recipe' (did you mean 'recipes'?)" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(
        f"\n  {name} " in said
        for name in ("fit", "validate", "test", "predict", "recipes", "generate", "evaluate")
    )
    assert all(len(line) <= 80 for line in said.splitlines())
    with pytest.raises(SystemExit):
        main(["--version"])
    assert lightning_seq.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", [["recipes"], ["recipes", "show", "quickstart"], ["--help"], ["generate", "--help"]]
)
def test_light_commands_import_nothing_heavy(line):
    code = (
        "import sys\n"
        "from lightning_seq.__main__ import main\n"
        f"try: main({line!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'numpy', 'jsonargparse', 'datasets', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_the_package_is_cheap_and_its_lazy_names_are_real():
    code = (
        "import sys, lightning_seq; assert not {'torch', 'lightning'} & set(sys.modules); lightning_seq.load"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = lightning_seq.nonsense
