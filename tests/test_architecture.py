"""What the design says of the code as a whole: which way imports go, who talks to MLflow, and what is never written."""

import ast
import importlib
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

import repro
from tests import conftest
from tests.fresh_python import printed
from tests.paths import ROOT, TESTS

# Whoever stands on a floor uses its own floor and those below it, which come after it here.
FLOORS = (
    "cli",
    "api",
    "reports",
    "tracking",
    "engine",
    "stages",
    "data",
    "study",
    "details",
    "models",
    "ops",
    "ground",
)
GROUND = {"errors", "types", "record", "detail"}  # what every floor may use
ROOMS = ("formats", "pages", "figures", "statistics", "reading")  # of the reports, in the same order
DECIDES = ("cli", "api", "tracking", "engine")  # the floors on which an arm may be asked what it is
REPORTS = sorted((ROOT / "repro" / "reports").rglob("*.py"))
REPRO = [file for file in sorted((ROOT / "repro").rglob("*.py")) if file not in REPORTS]
MODULES = [file for file in REPRO if file.parent != ROOT / "repro" or file.stem in GROUND | {"__main__"}]


def floor_of(module):
    """The floor of `repro.ops.loss` or `repro.__main__`."""
    _, first, *_ = module.split(".")
    return "ground" if first in GROUND else "cli" if first == "__main__" else first


def room_of(module):
    """The room of `repro.reports.pages.index`."""
    return module.split(".")[2]


def name_of(file):
    """The dotted name of a module."""
    return file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


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


def used(file):
    """The modules of the project that a file imports: of `repro.ops.loss.value_loss`, `repro.ops.loss`."""
    known = {name_of(each) for each in REPRO + REPORTS}
    for name in imported(file):
        if name.split(".")[0] == "repro":
            yield name if name in known else name.rpartition(".")[0]


def shown(file):
    return str(file.relative_to(ROOT))


def rooms_of(folder):
    return {each.name for each in folder.iterdir() if (each / "__init__.py").exists()}


def test_tests_lie_in_the_rooms_of_what_they_test():
    needs = {"browser", "gpu", "slurm"}  # what a machine has to have for the tests in these
    whole = {"bad_input", "faults"}  # what is about all verbs, or whole studies, at once
    assert rooms_of(TESTS) == rooms_of(ROOT / "repro") | {"benchmarks"} | needs | whole
    assert rooms_of(TESTS / "reports") == rooms_of(ROOT / "repro" / "reports")


def test_the_files_that_are_tested_first_are_there():
    assert [name for name in conftest.LONG if not (TESTS / name).is_file()] == []


def test_every_module_stands_on_a_floor():
    assert {floor_of(name_of(file)) for file in MODULES + REPORTS} == set(FLOORS)
    assert {file.stem for file in REPRO if file not in MODULES} == {"__init__"}


@pytest.mark.parametrize("file", MODULES, ids=shown)
def test_imports_go_down(file):
    own = FLOORS.index(floor_of(name_of(file)))
    up = [module for module in used(file) if module != "repro" and FLOORS.index(floor_of(module)) < own]
    assert up == []


@pytest.mark.parametrize("file", [each for each in REPORTS if each.stem != "__init__"], ids=shown)
def test_the_reports_import_down_from_pages_to_reading(file):
    own = ROOMS.index(room_of(name_of(file)))
    rooms = [room_of(module) for module in used(file) if floor_of(module) == "reports"]
    assert [room for room in rooms if ROOMS.index(room) < own] == []


def test_imports_go_in_no_circle():
    arrows = {name_of(file): set(used(file)) - {name_of(file)} for file in MODULES + REPORTS}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize("file", [each for each in MODULES if floor_of(name_of(each)) in {"ops", "ground"}], ids=shown)
def test_the_arithmetic_knows_torch_and_nothing_else_of_the_project(file):
    others = {module for module in used(file) if floor_of(module) not in {"ops", "ground"}}
    assert others <= {"repro.ops"}
    assert not any(name.startswith(("transformers", "accelerate", "datasets")) for name in imported(file))


@pytest.mark.parametrize("file", REPORTS, ids=shown)
def test_reports_need_neither_torch_nor_a_stage(file):
    assert not {name.split(".")[0] for name in imported(file)} & {"torch", "transformers", "accelerate"}
    assert {module for module in used(file) if floor_of(module) != "reports"} <= {"repro.errors", "repro.record"}


def test_importing_the_package_or_its_errors_imports_no_library():
    code = "import sys; import repro, repro.errors; print(*sys.modules)"
    assert not {"torch", "transformers", "mlflow", "pandas"} & set(printed(code).split())


def test_what_the_package_offers_is_there_and_listed():
    assert sorted(repro.__all__) == sorted(repro._HOMES) and set(repro.__all__) <= set(dir(repro))
    for name, home in repro._HOMES.items():
        assert getattr(repro, name) is getattr(importlib.import_module(home), name)


def test_the_names_in_the_store_need_no_library():
    assert {name.split(".")[0] for name in imported(ROOT / "repro" / "record.py")} <= sys.stdlib_module_names


def test_only_the_command_line_and_the_python_interface_know_of_reports():
    users = [file for file in REPRO if any(module.startswith("repro.reports") for module in used(file))]
    assert {floor_of(name_of(file)) for file in users} <= {"cli", "api"}


def test_one_floor_writes_mlflow_and_one_room_reads_it():
    users = {file for file in REPRO + REPORTS if any(name.split(".")[0] == "mlflow" for name in imported(file))}
    readers = {file for file in users if file in REPORTS}
    assert {floor_of(name_of(file)) for file in users - readers} == {"tracking"}
    assert {room_of(name_of(file)) for file in readers} == {"reading"}


def mentions_an_arm(condition):
    """Whether a condition asks for the recipe, or for a detail by `pick`."""
    names = {node.id for node in ast.walk(condition) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(condition) if isinstance(node, ast.Attribute)}
    return bool(names & {"recipe", "pick"})


@pytest.mark.parametrize("file", [each for each in MODULES if floor_of(name_of(each)) not in DECIDES], ids=shown)
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


@pytest.mark.parametrize("file", REPRO + REPORTS, ids=shown)
def test_a_module_is_about_one_thing(file):
    assert len(file.read_text().splitlines()) <= 400
