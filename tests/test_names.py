"""One name, four places: every command is a thin shell over a library function."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import polars as pl
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import opd_diag
from opd_diag.cli import app, read_dump
from opd_diag.cli.analyze import ORDER
from opd_diag.datasets import null_run, save_run
from opd_diag.errors import OpdDiagError
from opd_diag.rollouts.formats import FORMATS
from opd_diag.tables.columns import ANALYSES as COLUMNS_OF_ANALYSES
from opd_diag.tables.columns import INTERVENTIONS, RESULTS
from opd_diag.tables.rollouts import Rollouts

# What only one side has: paths and printing here, frames in memory and callbacks there.
ONLY_COMMAND = {"run", "out", "as_json", "rollouts", "fail_on"}
ONLY_FUNCTION = {"run", "rollouts", "k_grid", "out", "progress", "paths", "tokenizer", "folder"}


def leaves() -> dict[str, Any]:
    """Every command that runs something, by its words."""
    commands = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        commands |= (
            {f"{name} {key}": value for key, value in inner.items()} if inner else {name: command}
        )
    return commands


LEAVES = leaves()
COMMANDS = {
    words.split()[-1]: inspect.unwrap(command.callback) for words, command in LEAVES.items()
}
ANALYSES = [words.split()[1] for words in LEAVES if words.startswith("analyze ")]
ANALYSES.remove("all")
CHANGES = [words.split()[1] for words in LEAVES if words.startswith("intervene ")]


def options(function: Callable[..., Any], without: set[str]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: listed(p.default) for p in parameters if p.name not in without}


def listed(default: Any) -> Any:
    """A list of numbers is a text with commas in a command, and a tuple in a function."""
    if isinstance(default, str) and "," in default:
        return tuple(map(float, default.split(",")))
    return default


@pytest.mark.parametrize("name", [*ANALYSES, *CHANGES])
def test_an_analysis_has_the_options_and_defaults_of_its_function(name: str) -> None:
    function = getattr(opd_diag, name.replace("-", "_"))
    own = {"out"} if name in CHANGES else set()
    command = options(COMMANDS[name], ONLY_COMMAND - own)
    assert command == options(function, ONLY_FUNCTION - own)


@pytest.mark.parametrize("name", [*ANALYSES, *CHANGES])
def test_the_first_table_is_named_after_the_command(name: str) -> None:
    table = name.replace("-", "_")
    assert table in RESULTS
    function = getattr(opd_diag, table)
    returned = inspect.signature(function, eval_str=True).return_annotation
    if returned is pl.DataFrame:  # the one table of its name
        return
    fields = list(returned._fields)
    assert fields[0] == table
    assert set(fields) <= set(RESULTS)


def test_score_has_the_options_of_reading_and_scoring() -> None:
    command = options(COMMANDS["score"], ONLY_COMMAND)
    expected = options(opd_diag.read_rollouts, ONLY_FUNCTION)
    expected |= options(opd_diag.score, {"rollouts", "out", "progress"})
    assert command == expected


def test_check_has_the_options_of_reading_and_checking() -> None:
    command = options(COMMANDS["check"], ONLY_COMMAND - {"out"})
    expected = options(opd_diag.read_rollouts, ONLY_FUNCTION)
    expected |= options(opd_diag.check, {"rollouts"})
    assert command == expected


def test_plot_info_export_and_report_have_the_options_of_their_functions() -> None:
    assert options(COMMANDS["export"], {"run"}) == options(opd_diag.export, {"run"})
    assert options(COMMANDS["report"], {"run"}) == options(opd_diag.report, {"run"})
    assert options(COMMANDS["plot"], {"run", "names"}) == options(opd_diag.plot, {"run", "names"})
    own = options(COMMANDS["teacher-requests"], {"run"})
    assert own == options(opd_diag.teacher_requests, {"run"})
    assert options(COMMANDS["info"], ONLY_COMMAND) == options(opd_diag.info, {"run"})


# --- What a command hands over is what was typed --------------------------------------------------


class ReachedError(OpdDiagError):
    """The library function was called."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What the library functions were called with, by name; none of them does anything else."""
    seen: dict[str, dict[str, Any]] = {}

    def record(name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(opd_diag, name))

        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            seen[name] = dict(bound.arguments)
            if name == "read_rollouts":
                return Rollouts(None, REPORT)  # type: ignore[arg-type]
            raise ReachedError(name)

        return call

    for name in (
        "read_rollouts",
        "score",
        "check",
        "plot",
        "info",
        "export",
        "report",
        "teacher_requests",
        *COLUMNS_OF_ANALYSES,
        *INTERVENTIONS,
    ):
        monkeypatch.setattr(opd_diag, name, record(name))
    return seen


REPORT = {
    "rollouts": 1, "prompts": 1, "response_tokens": 1, "format": "generic", "why": "its keys",
    "empty_responses": 0, "unknown_keys": {}, "skipped": {}, "retokenised": {}, "left_out": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run."""
    path = tmp_path_factory.mktemp("names") / "run"
    save_run(null_run(prompts=4, tokens=40), path)
    return str(path)


def needed(words: str, folder: str) -> list[str]:
    """The arguments without which a command does not start."""
    if words == "score":
        return ["dump.jsonl", "--teacher", "t", "--student", "a=b", "--out", "run"]
    if words == "check":
        return ["dump.jsonl", "--teacher", "t", "--student", "b"]
    if words == "export":
        return [folder, "--rule", "all", "--to", "trl", "--out", "export"]
    if words in ("intervene knock-out", "intervene continuation"):
        return [folder, "--verifier", "exact"]
    if words == "teacher-requests":
        return [folder, "--to", "sglang", "--out", "requests"]
    return [folder]


def another(words: str, option: Any) -> tuple[list[str], Any]:
    """Words for a value that is not the option's default, and the value that they mean."""
    parameter = inspect.signature(COMMANDS[words.split()[-1]]).parameters[option.name]
    kind, default = get_args(parameter.annotation)[0], parameter.default
    several = False
    if type(None) in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is list:
        several, kind = True, get_args(kind)[0]
    text: str
    value: Any
    if kind is bool:
        return [option.opts[0]], not default
    if get_origin(kind) is tuple:
        return [option.opts[0], "3", "7"], (3, 7)
    if get_origin(kind) is Literal:
        text = value = next(choice for choice in get_args(kind) if choice != default)
    elif kind in (int, float):
        text, value = "11", 11
    elif (isinstance(default, str) and "," in default) or option.metavar == "K,K,...":
        text, value = "2,3", [2, 3]
    elif option.metavar == "KEY=THEIRS":
        return [option.opts[0], "reward=score", option.opts[0], "step=x"], {
            "reward": "score",
            "step": "x",
        }
    elif option.metavar == "NAME,...":
        text, value = "x, y", ["x", "y"]
    else:
        text, value = "other", kind("other")
    return [option.opts[0], text], [value] if several else value


WORDS = [words for words in LEAVES if words != "analyze all"]
CASES = [
    (words, option.name)
    for words in WORDS
    for option in LEAVES[words].params
    if option.opts[0].startswith("--")
    and option.name not in ("help", "as_json", "teacher", "student", "students", "fail_on")
    and not (option.name == "out" and words.startswith(("analyze", "score")))
]


@pytest.mark.parametrize(("words", "name"), CASES)
def test_every_option_reaches_the_function(
    words: str, name: str, folder: str, calls: dict[str, dict[str, Any]]
) -> None:
    """An option typed changes that argument and no other."""
    function = words.split()[-1].replace("-", "_")
    option = next(option for option in LEAVES[words].params if option.name == name)
    typed, value = another(words, option)
    base = [*words.split(), *needed(words, folder)]
    result = CliRunner().invoke(app, base)
    assert result.stderr.endswith(f"error: {function}\n"), result.output
    before = {"read_rollouts": {}, **calls}
    calls.clear()
    result = CliRunner().invoke(app, [*base, *typed])
    assert result.stderr.endswith(f"error: {function}\n"), result.output
    changed = {
        (of, argument): given
        for of in calls
        for argument, given in calls[of].items()
        if argument != "run"
        and (argument != "rollouts" or name == "rollouts")
        and given != before[of].get(argument)
    }
    places = {(of, name) for of in calls if name in before[of]}
    assert places
    assert set(changed) == places
    for given in changed.values():
        assert given == value


@pytest.mark.parametrize("words", WORDS)
def test_a_command_hands_over_the_defaults_of_its_function(
    words: str, folder: str, calls: dict[str, dict[str, Any]]
) -> None:
    name = words.split()[-1].replace("-", "_")
    result = CliRunner().invoke(app, [*words.split(), *needed(words, folder)])
    assert result.exit_code == 1, result.output
    assert set(calls) - {"read_rollouts"} == {name}
    given = calls[name]
    command = COMMANDS[words.split()[-1]]
    own = options(command, ONLY_COMMAND | {"names", "teacher", "student", "students"})
    for argument, default in own.items():
        if default is inspect.Parameter.empty:
            continue
        reached = given.get(argument, calls.get("read_rollouts", {}).get(argument))
        assert (tuple(reached) if isinstance(reached, list) else reached) == default


def test_students_are_handed_over_by_name(calls: dict[str, dict[str, Any]]) -> None:
    words = ["score", "dump", "--teacher", "t", "--student", "a=b", "--student", "x/c"]
    CliRunner().invoke(app, [*words, "--out", "run"])
    assert calls["score"]["students"] == {"a": "b", "c": "x/c"}
    assert calls["read_rollouts"]["tokenizer"] == "b"


# --- What stands in one place only ----------------------------------------------------------------


@pytest.mark.parametrize("words", [*LEAVES, "", "analyze"])
def test_every_command_has_an_example_that_it_accepts(words: str) -> None:
    """The example is of this command, its options are known, and `-h` shows it whole."""
    command: Any = get_command(app)
    for word in words.split():
        command = command.commands[word]
    result = CliRunner().invoke(app, [*words.split(), "-h"])
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert command.epilog.startswith(f"Example: opd-diag {words}".rstrip())
    assert command.epilog in shown
    assert inspect.cleandoc(command.help).split("\n\n")[0].replace("\n", " ") in shown
    if words in LEAVES:
        example = command.epilog.removeprefix(f"Example: opd-diag {words}").split()
        with command.make_context(words, example):
            pass


def test_short_descriptions_are_not_cut() -> None:
    for words in ([], ["analyze"]):
        shown = CliRunner().invoke(app, [*words, "--help"]).stdout
        assert "..." not in shown.replace("[ARGS]...", "")


def test_every_analysis_is_a_command_and_all_runs_each() -> None:
    assert sorted(CHANGES) == sorted(name.replace("_", "-") for name in INTERVENTIONS)
    assert sorted(ANALYSES) == sorted(name.replace("_", "-") for name in COLUMNS_OF_ANALYSES)
    # Findings follow every analysis, and an update needs the models.
    assert sorted([*ORDER, "findings", "update_alignment"]) == sorted(COLUMNS_OF_ANALYSES)


def test_formats_are_those_of_the_readers() -> None:
    literal, _ = get_args(get_args(read_dump.FormatName)[0])
    assert sorted(get_args(literal)) == sorted(form.name for form in FORMATS)


@pytest.mark.parametrize("name", [n for n in opd_diag.__all__ if n not in ("datasets", "stats")])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(opd_diag, name) is not None
    assert name in dir(opd_diag)
