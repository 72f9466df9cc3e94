"""The names of what the store holds: the same as the pipeline's, and written as they are read."""

import json
from dataclasses import fields

from repro import record
from repro.engine import pipeline

PLAN = record.Plan(
    question="Does it matter?",
    hypothesis="It does.",
    expected={"objective/kl": "up", "test/kl": {"off": "down"}},
    paper="N+ detail 25",
    primary="test/win_rate",
    higher_is_better=True,
    smallest_effect=0.05,
    looks=(4, 6, 8),
    judge=record.GOLD_SCORE,
    kl_cap=50.0,
)


def test_the_stages_are_the_pipelines_in_its_order():
    assert tuple(stage.name for stage in pipeline.STAGES) == record.STAGES


def test_a_plan_is_read_as_it_was_written():
    tags = PLAN.tags()
    assert tuple(tags) == record.PLAN == tuple(getattr(record, each.name.upper()) for each in fields(record.Plan))
    assert all(isinstance(value, str) for value in tags.values())
    assert (record.expected(tags), record.looks(tags)) == (PLAN.expected, PLAN.looks)
    assert record.smallest_effect(tags) == PLAN.smallest_effect and record.is_set(tags, record.HIGHER_IS_BETTER)


def test_the_format_of_stores_that_are_there_stays():
    assert PLAN.tags() | {record.EXPECTED: json.loads(PLAN.tags()[record.EXPECTED])} == {
        "question": "Does it matter?",
        "hypothesis": "It does.",
        "moves": {"objective/kl": "up", "test/kl": {"off": "down"}},
        "paper": "N+ detail 25",
        "primary": "test/win_rate",
        "higher_is_better": "true",
        "smallest_effect": "0.05",
        "looks": "4 6 8",
        "judge": "gold score",
        "kl_cap": "50.0",
    }
    assert set(record.STUDY_TAGS) - {"detail", "scale"} < set(record.PLAN)


def test_of_a_metrics_points_the_last_attempts_count():
    assert record.last_attempt([]) == []
    assert record.last_attempt([(0, 5), (1, 5), (2, 9)]) == [0, 1, 2]
    assert record.last_attempt([(2, 1), (0, 5), (1, 9)]) == [1, 2, 0]  # no step twice: a clock that went back
    assert record.last_attempt([(0, 1), (1, 2), (2, 3), (0, 4), (1, 5)]) == [3, 4]
    assert record.last_attempt([(0, 4), (0, 1)]) == [0]
    assert record.last_attempt([(0, 1), (0, 4), (1, 5)]) == [1, 2]
