"""Options are made from the fields of recipes, and what they say lies over a recipe's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from homoexport.cli.app import app, command_names, load_command
from homoexport.cli.options import BUDGET, COLUMNS, DATA, Flag, flags, laid_over, on_provider
from homoexport.documents.budget import Budget
from homoexport.documents.recipe import Recipe, Tree
from homoexport.errors import RecipeError, UserError


@pytest.fixture
def asked() -> dict[str, Any]:
    """What the command below was called with."""
    return {}


@pytest.fixture
def run(asked):
    """Exit code and output of a command with a few fields of a recipe."""

    @flags(
        Recipe,
        "teacher",
        DATA,
        *COLUMNS,
        "distill.steps",
        "distill.warmup",
        "export.quantize",
        "export.with_tokenizer",
        "quality.task",
        Flag("student.num_hidden_layers", "--layers"),
        *BUDGET,
    )
    def command(name: str, given: Tree, often: int = 1) -> None:
        """Do it."""
        asked.update(name=name, given=given, often=often)

    alone = typer.Typer(add_completion=False)
    alone.command()(command)

    def call(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(alone, words, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
        return result.exit_code, result.output

    return call


def test_only_what_was_given_is_in_the_tree(run, asked):
    assert run("me", "--steps", "7", "--layers", "3", "--with-tokenizer", "--size", "4x", "--task", "sst2")[0] == 0
    given = {
        "distill": {"steps": 7},
        "student": {"num_hidden_layers": 3},
        "export": {"with_tokenizer": True},
        "budget": {"file_mb": "4x"},
        "quality": {"task": "sst2"},
    }
    assert asked == {"name": "me", "given": given, "often": 1}
    assert run("me")[0] == 0
    assert asked["given"] == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--quantize", "int3"), "'int8-static', 'int4'"),
        (("--task", "glue"), "'sts', 'search', 'classification'"),
        (("--steps", "0"), "--steps"),
        (("--warmup", "1.5"), "--warmup"),
        (("--steps", "many"), "--steps"),
    ],
)
def test_what_the_field_does_not_allow_is_refused(run, asked, words, said):
    code, output = run("me", *words)
    assert (code, said in output, asked) == (2, True, {}), output


def test_the_help_is_the_fields(run):
    code, output = run("--help")
    said = " ".join(output.replace("│", " ").split())
    assert code == 0
    for field, default in (("distill.warmup", "0.1"), ("export.quantize", "auto")):
        section, name = field.split(".")
        description = Recipe.model_fields[section].annotation.model_fields[name].description
        assert f"{description.removesuffix('.')} (default: {default})." in said
    for flag in BUDGET:
        field = Budget.model_fields[flag.field.removeprefix("budget.")]
        assert flag.option in said
        assert field.examples[0] in said


def test_flags_lie_over_the_target_over_the_recipe(tmp_path: Path):
    recipe, target = tmp_path / "recipe.yaml", tmp_path / "target.yaml"
    recipe.write_text("measure: {device: cpu, length: 64, threads: 4}\nbudget: {file_mb: 3, parameters: 5}\n")
    target.write_text("measure: {threads: 1, batch_size: 2}\nbudget: {latency_p95_ms: 8ms, file_mb: 12MB}\n")
    tree = laid_over({"measure": {"batch_size": 8}, "budget": {"file_mb": "9MB"}}, recipe, target)
    assert tree == {
        "measure": {"device": "cpu", "length": 64, "threads": 1, "batch_size": 8},
        "budget": {"latency_p95_ms": "8ms", "file_mb": "9MB"},
    }
    assert laid_over({"seed": 1}, without_recipe={"distill": {"steps": 3}}) == {"seed": 1, "distill": {"steps": 3}}
    recipe.write_text("measure: 3\n")
    with pytest.raises(RecipeError, match="'measure' is not a section; write the keys of measure below it"):
        laid_over({"measure": {"length": 8}}, recipe)


def test_files_and_columns_are_sources(run, asked):
    assert run("me", "--data", "a.csv", "--data", "b.csv", "--text-column", "words", "--label-column", "y")[0] == 0
    sources = [{"files": name, "column": "words", "label_column": "y"} for name in ("a.csv", "b.csv")]
    assert laid_over(asked["given"]) == {"text": {"sources": sources}}
    run("me", "--pair-column", "words")
    with pytest.raises(UserError, match="--pair-column: is for --data"):
        laid_over(asked["given"])


def test_a_provider_is_a_device_of_this_machine():
    assert on_provider({"measure": {"length": 8}}, "cuda") == {"measure": {"length": 8, "device": "cuda"}}
    with pytest.raises(UserError, match="--device is arm64, too"):
        on_provider({"measure": {"device": "arm64"}}, "cuda")


@pytest.mark.parametrize("name", command_names())
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    listed = typer.main.get_command(app).commands[name]
    assert load_command(name).help.splitlines()[0] == listed.help


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "x", "--quantize", "int3"), "'int3' is not one of 'auto'"),
        (("distill", "--steps", "0"), "'--steps'"),
        (("plna",), "Did you mean 'plan'?"),
        (("verify",), "Missing argument 'FOLDER'; see `homoexport verify --help`"),
        (
            ("distill", "--stepz", "5"),
            "No such option: --stepz; did you mean --steps?; see `homoexport",
        ),
        (("plan", "--batch", "5"), "No such option: --batch; did you mean --batch-size?; see `homoexport plan --help`"),
        (("plan", "--bogus"), "No such option: --bogus; see `homoexport plan --help`"),
    ],
)
def test_wrong_usage_is_one_line(homoexport, words, said):
    outcome = homoexport(*words)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert outcome.err.startswith("error: ")
    assert said in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("distill", "--column", "body", "--hidden-size", "8"), "--text-column: is for --data"),
        (("distill", "--column=body", "--hidden-size", "8"), "--text-column: is for --data"),
        (("plan", "--teacher", "x", "--latency-p95-ms", "8 parsecs"), "'8 parsecs' is no time; write 8ms"),
        (("plan", "--teacher", "x", "--file-mb", "8 parsecs"), "'8 parsecs' is no size"),
    ],
)
def test_keys_of_recipes_and_old_names_are_flags_too(homoexport, words, said):
    outcome = homoexport(*words)
    assert (outcome.code, said in outcome.err) == (2, True), outcome.err
    assert "--column" not in [name for parameter in load_command(words[0]).params for name in parameter.opts]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("homoexport p", ["plan"]),
        ("homoexport plan --lat", ["--latency-p50", "--latency-p95", "--latency-p99"]),
        ("homoexport export student --embeddings in", ["int8", "int4"]),
        ("homoexport distill --col", []),  # an old name
    ],
)
def test_a_shell_completes_commands_flags_and_choices(homoexport, monkeypatch, line, found):
    monkeypatch.setenv("_HOMOEXPORT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    outcome = homoexport()
    assert (outcome.code, outcome.out.split()) == (0, found)


def test_columns_are_called_what_the_command_calls_them(homoexport, tmp_path):
    (tmp_path / "rows.csv").write_text("review,y\ngood,1\n")
    words = ("distill", "--teacher", "nowhere", "--hidden-size", "8", "--objective", "sentence-embedding")
    outcome = homoexport(*words, "--data", tmp_path / "rows.csv", "-o", tmp_path / "out")
    assert "has no column 'text'; set --text-column to one of: review, y" in outcome.err


@pytest.mark.parametrize(
    ("words", "kind", "parts"),
    [
        (("verify", "nowhere"), "PackageError", {"where"}),
        (("distill", "--steps", "0"), "UsageError", {"what", "where", "hint"}),
        (("distill", "--stepz", "5"), "UsageError", {"what", "where", "hint"}),
        (("verify",), "UsageError", {"what", "where", "hint"}),
        (("run", "nowhere.yaml"), "RecipeError", {"what", "where", "hint"}),
    ],
)
def test_with_json_an_error_is_json(homoexport, words, kind, parts):
    plain, outcome = homoexport(*words), homoexport(*words, "--json")
    told = json.loads(outcome.out)["error"]
    assert (outcome.code, plain.out, told["kind"], told["exit_code"]) == (2, "", kind, 2)
    assert outcome.err == plain.err == f"error: {told['message']}\n"
    assert parts <= told.keys()
    if kind == "UsageError":
        assert told["where"] in (words[1:2] or ["FOLDER"])
        assert told["message"] == f"{told['what']}; {told['hint']}"
