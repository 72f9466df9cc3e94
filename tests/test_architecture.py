"""What the design says of the code as a whole: which way imports go, who talks to MLflow, and what is never written."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each module imports from its own layer and from those above it in this list.
LAYERS = (
    {"errors"},
    {"ops", "types", "ranks", "shape"},
    {"neox", "kv_cache"},
    {"model", "generate", "vllm_sampler"},
    {"weights", "hub"},
    {"detail"},
    {"details", "scale"},
    {"stage"},
    {"checkpoint"},
    {"data", "base", "optimise", "sft", "rm", "dpo", "evaluate", "episodes", "ppo"},
    {"pipeline"},
)
ENTRY = "__main__"
REPRO, REPORTS = (sorted((ROOT / package).rglob("*.py")) for package in ("repro", "reports"))


def name_of(file):
    """The module within its package: `ops` for `repro/ops/loss.py`."""
    return file.relative_to(ROOT / file.relative_to(ROOT).parts[0]).parts[0].removesuffix(".py")


def layer_of(module):
    """Its place in the list; what runs many arms is above all stages and below the command line."""
    places = [place for place, layer in enumerate(LAYERS) if module in layer]
    return places[0] if places else len(LAYERS) + (module == ENTRY)


def tree_of(file):
    return ast.parse(file.read_text(), filename=str(file))


def imported(file):
    """Dotted names of all that a file imports, inside functions too."""
    found = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def shown(file):
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", REPRO, ids=shown)
def test_imports_go_one_way(file):
    ours = [name.split(".")[1] for name in imported(file) if name.startswith("repro.")]
    late = [name for name in ours if layer_of(name) > layer_of(name_of(file))]
    assert late == []


@pytest.mark.parametrize("file", [file for file in REPRO if name_of(file) in {"ops", "types", "errors"}], ids=shown)
def test_the_arithmetic_knows_torch_and_nothing_else_of_the_project(file):
    others = [name for name in imported(file) if name.startswith("repro.") and not name.startswith("repro.ops")]
    assert others == []
    assert not any(name.startswith(("transformers", "accelerate", "datasets")) for name in imported(file))


@pytest.mark.parametrize("file", REPORTS, ids=shown)
def test_reports_need_neither_torch_nor_a_stage(file):
    foreign = [
        name for name in imported(file) if name.split(".")[0] in ("torch", "transformers", "accelerate", "repro")
    ]
    assert set(foreign) <= {"repro.errors.UserError"}


def test_no_module_of_the_project_is_imported_by_reports_through_its_package():
    assert imported(ROOT / "repro" / "__init__.py") == imported(ROOT / "repro" / "errors.py") == []


def test_only_the_command_line_knows_of_reports():
    assert [
        shown(file)
        for file in REPRO
        if any(name.startswith("reports") for name in imported(file)) and name_of(file) != ENTRY
    ] == []


def test_few_modules_write_mlflow_and_one_reads_it():
    users = {shown(file) for file in REPRO + REPORTS if any(name.split(".")[0] == "mlflow" for name in imported(file))}
    writers = {f"repro/{name}.py" for name in ("store", "track", "policy", "transfer")}
    assert users <= writers | {"reports/read.py"}


def mentions_an_arm(condition):
    """Whether a condition asks for the recipe, or for a detail by `pick`."""
    names = {node.id for node in ast.walk(condition) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(condition) if isinstance(node, ast.Attribute)}
    return bool(names & {"recipe", "pick", "choices"})


@pytest.mark.parametrize("file", [file for file in REPRO if layer_of(name_of(file)) < len(LAYERS)], ids=shown)
def test_no_branch_asks_which_arm_it_is_in(file):
    branches = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.If | ast.IfExp | ast.While)]
    assert [ast.unparse(node.test) for node in branches if mentions_an_arm(node.test)] == []


@pytest.mark.parametrize("file", REPRO + REPORTS, ids=shown)
def test_a_module_says_what_it_is_and_no_function_is_long(file):
    tree = tree_of(file)
    assert ast.get_docstring(tree), "a module opens with a sentence"
    long = {
        node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in long.items() if lines > 60} == {}
