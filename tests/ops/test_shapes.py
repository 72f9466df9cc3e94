"""What `repro/ops/` says of its arguments is so: their shapes and dtypes, checked in each call, and which of them it reads.

These tests fail where `tests/checked_shapes.py` is switched off.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from dataclasses import fields, replace
from itertools import combinations
from types import UnionType
from typing import get_args

import pytest
import torch
from jaxtyping import AbstractArray, TypeCheckError

from repro import ops, types
from repro.ops import advantage, loss, masked, text
from repro.types import LossWeights, Targets
from tests.fresh_python import printed
from tests.tiny import made_up_rollout

MODULES = [importlib.import_module(f"repro.ops.{each.name}") for each in pkgutil.iter_modules(ops.__path__)]
OPERATIONS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": function
    for module in MODULES
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
}
# Of each dimension, all different; a number that may be of any rank is one of each token.
SIZES = {
    "episodes": 2,
    "tokens": 3,
    "vocabulary": 7,
    "rows": 2,
    "columns": 3,
    "width": 3,
    "places": 4,
    "texts": 2,
    "bytes": 1,
}
SIZES |= {"posts": 6, "samples": 8, "members": 3}
SIZES |= {"comparisons": 5, "references": 5, "weights": 3, "_": 3, "*shape": (2, 3), "*places": (2, 3), "*rest": ()}
# What an operation is given that is no tensor.
OTHERS = {
    "gamma": 0.9,
    "lam": 0.95,
    "alpha": 0.5,
    "steps": 2,
    "responses": 2,
    "otherwise": 4,
    "price": 0.1,
    "n": 4,
    "samples": 8,
    "most": 4,
    "of_references": lambda: torch.ones(2),
    "mean_return": 0.5,
    "greedy_return": lambda: torch.ones(2),
    "average": 0.5,
    "of_batch": lambda: 1.0,
    "decay": 0.9,
    "entropy": 2.0,
    "level": 3.0,
    "rate": 0.1,
    "start": 0.8,
    "count": 2,
    "mass": 0.9,
    "kl": 0.1,
    "clip": 0.2,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "widths": (0.1, 0.1),
    "beta": 1.0,
    "temperature": 0.7,
    "coefficient": 0.1,
    "limit": 5.0,
    "factor": 8.0,
    "weight": 0.5,
    "smoothing": 0.1,
    "lead": 1.0,
    "micro_batch": 1,
    "length": 3,
    "size": 2,
    "eos": 1,
    "pad": 9,
    "never": -1,
    "shape": (2, 3),
    "whiten": masked.whiten,
    "penalty": loss.half_square,
    "reduce": masked.one_rank,
    "endings": (torch.ones(2, dtype=torch.long), torch.ones(2, dtype=torch.long)),
    "generator": torch.Generator(),
    "fisher_vector_product": lambda vector: vector,
    "measure": lambda fraction: (-1.0, 0.0),
    "damping": 0.1,
    "iterations": 2,
    "radius": 0.01,
    "truncate": text.every_token,
}


def is_tensor(annotation):
    return inspect.isclass(annotation) and issubclass(annotation, AbstractArray)


def tensors(function):
    """name -> annotation of each argument that is a tensor, or may be one."""
    hints = {name: each.annotation for name, each in inspect.signature(function).parameters.items()}
    either = {name: get_args(hint) if isinstance(hint, UnionType) else (hint,) for name, hint in hints.items()}
    return {name: each for name, hints in either.items() for each in hints if is_tensor(each)}


def alike(one, other):
    """Whether two annotations state the same shape and dtypes."""
    return (one.dim_str, one.dtypes) == (other.dim_str, other.dtypes)


def example(annotation):
    """A tensor of that shape and dtype."""
    shape = []
    for name in annotation.dim_str.split():
        size = int(name) if name.isdigit() else SIZES[name]
        shape += [size] if isinstance(size, int) else size
    dtype = next(
        each
        for each in (torch.float32, torch.bool, torch.int64, torch.uint8)
        if isinstance(torch.zeros(shape, dtype=each), annotation)
    )
    return torch.ones(shape, dtype=dtype)


def arguments(function):
    """What the operation can be called with."""
    given = tensors(function)
    optional = {name for name, each in inspect.signature(function).parameters.items() if each.default is not each.empty}
    return {
        name: example(given[name]) if name in given else OTHERS[name]
        for name in inspect.signature(function).parameters
        if name not in optional
    }


def cases(wanted):
    """A parameter `operation name, *what wanted(its tensors) gives`."""
    return [
        pytest.param(name, *each, id=f"{name}-{'-'.join(each)}")
        for name, function in OPERATIONS.items()
        for each in wanted(tensors(function))
    ]


def alone(given, name):
    """Whether an argument has any rank, and no other argument says which."""
    return given[name].dim_str.startswith("*") and len(given) == 1


DIFFERENT = cases(lambda given: [pair for pair in combinations(given, 2) if not alike(*map(given.get, pair))])
EACH = cases(lambda given: [(name,) for name in given if not alone(given, name)])
SAME = cases(lambda given: [pair for pair in combinations(given, 2) if alike(*map(given.get, pair))])


def refused(name, **changed):
    """Calls with some other arguments; the message names the operation, the argument that does not fit, and its shape."""
    function = OPERATIONS[name]
    with pytest.raises(TypeCheckError) as told:
        function(**arguments(function) | changed)
    said = str(told.value)
    assert f"parameters of {function.__module__}.{function.__name__}" in said
    (named,) = re.findall(r"typechecking parameter '(\w+)'", said)
    assert repr(tensors(function)[named].dim_str) in said


@pytest.mark.parametrize("name", [name for name, function in OPERATIONS.items() if tensors(function)])
def test_an_operation_takes_plain_tensors_of_the_shapes_that_it_states(name):
    OPERATIONS[name](**arguments(OPERATIONS[name]))


@pytest.mark.parametrize(("name", "one", "other"), DIFFERENT)
def test_two_arguments_that_are_swapped_are_refused_by_name(name, one, other):
    right = arguments(OPERATIONS[name])
    refused(name, **{one: right[other], other: right[one]})


@pytest.mark.parametrize(("name", "one"), EACH)
def test_a_dimension_too_many_is_refused_by_name(name, one):
    refused(name, **{one: arguments(OPERATIONS[name])[one][None]})


@pytest.mark.parametrize(("name", "one", "other"), SAME)
def test_one_row_more_than_an_argument_of_the_same_shape_is_refused_by_name(name, one, other):
    if name == "branch.joinable":
        return  # asks whether the shapes are the same
    right = arguments(OPERATIONS[name])[other]
    refused(name, **{other: torch.cat([right, right[:1]])})


def test_the_cases_are_many():
    assert len(OPERATIONS) >= 70 and len(DIFFERENT) >= 20 and len(EACH) >= 70 and len(SAME) >= 20


def test_a_result_of_another_shape_than_it_states_is_refused(monkeypatch):
    monkeypatch.setattr(masked, "keep", lambda values, mask: values.sum(1))
    with pytest.raises(TypeCheckError, match="return value of repro.ops.masked.unchanged"):
        masked.unchanged(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))


# ----------------------------------------------------------------------------- records

ROLLOUT = made_up_rollout(last_token=[0, 2, 3], has_eos=[True, True, False], tokens=4)


@pytest.mark.parametrize("field", [each.name for each in fields(ROLLOUT)])
def test_a_rollout_refuses_a_field_of_another_shape_or_dtype(field):
    right = getattr(ROLLOUT, field)
    for wrong in (right[:-1], right[None], right.double() if field != "has_eos" else right.int()):
        with pytest.raises(TypeCheckError, match=field):
            replace(ROLLOUT, **{field: wrong})


@pytest.mark.parametrize("record", [Targets, LossWeights])
def test_targets_and_weights_have_one_number_for_each_token(record):
    names = [each.name for each in fields(record)]
    right = dict.fromkeys(names, ROLLOUT.value)
    record(**right)
    for name in names:
        with pytest.raises(TypeCheckError, match=name):
            record(**right | {name: ROLLOUT.value[:, :-1]})


# ----------------------------------------------------------------------------- where it is off

WITHOUT = """
import json, sys
import repro.ops
brought = "torch" in sys.modules or "jaxtyping" in sys.modules
import torch
from repro.ops import loss
one = loss.clipped(torch.zeros(()), torch.ones(()), 0.2, 0.2)
print(json.dumps({"brought": brought, "loss": float(one), "beartype": "beartype" in sys.modules,
                  "wrapped": hasattr(loss.clipped, "__wrapped__")}))
"""


def test_a_process_without_the_tests_checks_nothing_and_brings_no_checker():
    assert json.loads(printed(WITHOUT)) == {"brought": False, "loss": -1.0, "beartype": False, "wrapped": False}


# ----------------------------------------------------------------------------- what is copied


def run_alone(*code):
    """The names of a module that consists of this code."""
    names = {}
    exec(compile("\n".join(["from __future__ import annotations", "import torch", *code]), "pasted", "exec"), names)
    return names


def test_what_is_copied_runs_with_what_the_package_says_it_takes_along():
    reward, value = torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 3)
    pasted = run_alone(inspect.getsource(inspect.unwrap(advantage.gae)))
    assert pasted["gae"](reward, value, 1.0, 0.5).tolist() == [[0.25, 0.5, 1.0]]
    aliases = [line for line in inspect.getsource(types).splitlines() if re.match(r"\w+ = (Float|Bool|Int)\[", line)]
    head = "from jaxtyping import Bool, Float, Int\nfrom torch import Tensor"
    rest = re.sub(r"from (__future__|repro\.types) .*", "", inspect.getsource(masked))
    copied, mask = "\n".join([head, *aliases, rest]), torch.ones(1, 3, dtype=torch.bool)
    assert "repro." not in copied
    assert torch.equal(run_alone(copied)["whiten"](reward, mask), masked.whiten(reward, mask))


# ----------------------------------------------------------------------------- what a docstring owes its reader


def source_of(function):
    return ast.parse(inspect.getsource(inspect.unwrap(function))).body[0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_argument_that_is_not_read_is_said_to_be_and_no_other(name):
    tree = source_of(OPERATIONS[name])
    read = {node.id for line in tree.body for node in ast.walk(line) if isinstance(node, ast.Name)}
    unread = {each.arg for each in tree.args.args} - read
    said = re.findall(r"((?:`\w+`(?:, | and )?)+) (?:is|are) not read", " ".join(ast.get_docstring(tree).split()))
    assert {word for words in said for word in re.findall(r"`(\w+)`", words)} == unread


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_docstring_says_what_each_argument_is_or_where_that_stands(name):
    tree = source_of(OPERATIONS[name])
    text = ast.get_docstring(tree)
    assert text.split("\n")[0].endswith((".", ":")) or "\n\n" not in text, "opens with one sentence"
    described = set(re.findall(r"^    (\w+): ", text, re.MULTILINE)) | set(re.findall(r"`(\w+)`", text))
    elsewhere = re.search(r"[Aa]rguments(, m and v)? as|Stands where", text)
    assert elsewhere or {each.arg for each in tree.args.args} <= described


def test_the_table_of_contents_has_every_module_once():
    listed = re.findall(r"^\| `(\w+)` \|", ops.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(module.__name__.rpartition(".")[2] for module in MODULES)
