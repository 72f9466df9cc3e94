"""Any bytes or text in the place of what a person gives: a record or a UserError, and never another exception."""

import json
import tomllib
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from repro.cli import parser
from repro.data import local
from repro.details import DETAILS
from repro.engine import launch
from repro.engine.slurm import options as slurm_options
from repro.errors import UserError, printable, quoted, reason
from repro.models import folders, hub, pretrained, starts, strict_json
from repro.models.shape import parse_shape
from repro.stages.judge import answers, endpoint, prompt
from repro.study import ablation, scale
from tests.bad_input import networks, rows

quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
slow = settings(quick, max_examples=40)  # where a library reads the file
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none())
VALUES = st.recursive(
    st.one_of(NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
MARKS = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\n", b"\x00", b"\xff", b"\\u", b"NaN", b"1e999", b" "]
)
JUNK = st.one_of(st.binary(max_size=80), st.lists(MARKS, max_size=20).map(b"".join))


@st.composite
def spoilt(draw, whole):
    """A whole file with a part of it replaced by something else."""
    begin = draw(st.integers(0, len(whole)))
    end = draw(st.integers(begin, min(len(whole), begin + 20)))
    return whole[:begin] + draw(JUNK) + whole[end:]


@st.composite
def changed(draw, row):
    """A row with some fields replaced by any value, or left out."""
    fields = draw(st.dictionaries(st.sampled_from(sorted(row)), VALUES, max_size=2))
    left_out = draw(st.sets(st.sampled_from(sorted(row)), max_size=1))
    return {name: value for name, value in (row | fields).items() if name not in left_out}


def as_json(value):
    return json.dumps(value, default=str).encode()


def told(function, *arguments):
    """What the function gives, or None where it refuses in one line of printable text."""
    try:
        return function(*arguments)
    except UserError as refusal:
        said = str(refusal)
        assert said and "\n" not in said and said == printable(said)


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


# ------------------------------------------------------------------------------------------------ rows


@quick
@given(st.one_of(JUNK, spoilt(rows.lines(rows.POST)), changed(rows.POST).map(as_json)))
def test_any_file_of_posts(tmp_path, content):
    for post in told(local.read_posts, written(tmp_path, "posts.jsonl", content)) or ():
        assert post.keys() == set(local.POST_FIELDS) and all(isinstance(value, str) for value in post.values())


@quick
@given(st.one_of(JUNK, spoilt(rows.lines(rows.COMPARISON)), changed(rows.COMPARISON).map(as_json)))
def test_any_file_of_comparisons(tmp_path, content):
    for row in told(local.read_distinct_comparisons, written(tmp_path, "pairs.jsonl", content)) or ():
        assert row["choice"] in (0, 1) and len(row["summaries"]) == 2 and row["info"]["id"].strip()


@quick
@given(changed(rows.INFO), st.lists(changed(rows.COMPARISON["summaries"][0]), max_size=3), VALUES)
def test_any_parts_of_a_comparison(tmp_path, info, summaries, extra):
    row = rows.COMPARISON | {"info": info, "summaries": summaries, "extra": extra}
    told(local.read_distinct_comparisons, written(tmp_path, "pairs.jsonl", as_json(row)))


@slow
@given(JUNK)
def test_any_file_that_is_called_parquet(tmp_path, content):
    told(local.read_posts, written(tmp_path, "posts.parquet", content))


@quick
@given(st.one_of(JUNK, VALUES.map(as_json), spoilt(b'{"a": [1, 2.5, "b", null], "c": {"d": true}}')))
def test_any_json_is_strict_or_an_error_in_words(content):
    with suppress(ValueError):
        value = strict_json.parse(content)
        json.dumps(value, allow_nan=False)


# ------------------------------------------------------------------------------------------------ studies and budgets

LABELS = st.sampled_from([label for detail in DETAILS.values() for label in detail.variants])
TOML_VALUES = st.one_of(
    st.sampled_from(['"x"', '""', "1", "-1", "0.5", "nan", "inf", "true", "[]", "[1]", '["off"]', "{}", "{a = 1}"]),
    st.sampled_from(["2026-01-01", "[[1]]", "[nan]", "[4, 6]", "{episodes = 0}", '{gamma = "1"}', '"\\u0000"']),
    TEXT.map(json.dumps),
)
LINES = st.tuples(st.sampled_from([*ablation._KINDS, "other"]), TOML_VALUES).map(" = ".join)


@quick
@given(
    st.one_of(
        JUNK,
        st.lists(LINES, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
        st.lists(LINES, max_size=2).map(lambda lines: "\n".join(['detail = "whiten_adv"', *lines]).encode()),
        spoilt(b'detail = "kl_coef"\narms = ["0"]\nseeds = [1, 2]\nset = {episodes = 512}\n'),
    )
)
def test_any_file_of_a_study(tmp_path, content):
    written(tmp_path, "mine.toml", content)
    study = told(lambda: ablation.load("mine", folder=tmp_path))
    if study:
        assert study.arms and study.seeds and study.smallest_effect > 0
        assert tomllib.loads(content.decode())["detail"] == study.detail.name


WORDS = st.one_of(
    TEXT, st.sampled_from(["1", "-1", "0", "nan", "inf", "1e999", "9" * 5_000, "²", "off", "/", "hub:a/b@c"])
)
FIELDS = st.sampled_from([name for name in scale.Scale.__dataclass_fields__ if name != "name"])


@quick
@given(FIELDS, WORDS)
def test_any_value_of_a_budget(field, word):
    found = told(scale.find, "smoke", {field: word})
    if found:
        assert len(found.name) <= 80 and found.posts > 0


@quick
@given(
    TEXT,
    TEXT,
    st.lists(WORDS, max_size=3),
    st.dictionaries(TEXT, LABELS, max_size=2),
    st.lists(WORDS, max_size=3),
    TEXT,
)
def test_any_words_of_a_study(name, scale_name, seeds, company, looks, until):
    told(lambda: ablation.load(name, scale_name, seeds, {}, company, until=until, looks=looks))
    told(lambda: ablation.load("whiten_adv", "smoke", seeds, {}, company, looks, until="decided", looks=looks))
    told(ablation.names, name, scale_name, {}, company)


@quick
@given(WORDS)
def test_any_shape(word):
    told(parse_shape, word)
    told(parse_shape, f"gpt-neox:{word}/2/2/{word}")


@quick
@given(st.one_of(TEXT, TEXT.map("hub:{}".format), st.tuples(TEXT, TEXT, TEXT).map(lambda t: "hub:{}/{}@{}".format(*t))))
def test_any_reference_to_the_hub(source):
    reference = told(hub.parse, source)
    if reference:
        assert hub.parse(str(reference)) == reference
        assert not Path(reference.repo, reference.part).is_absolute() and ".." not in str(reference)


OPTION = st.sampled_from([*slurm_options.NUMBERS, *slurm_options.WORDS, "other"])


@quick
@given(st.dictionaries(OPTION, st.one_of(WORDS, st.from_regex(slurm_options.FORMS["gres"][0])), max_size=4))
def test_any_options_of_slurm(options):
    known = told(slurm_options.read_options, options)
    if known is not None:
        assert all(isinstance(known[name], int) for name in slurm_options.NUMBERS if name in known)
        assert all(str(value).isprintable() for value in known.values())
        told(slurm_options.check_gpus, scale.SCALES["smoke"], known)


@quick
@given(st.lists(st.one_of(TEXT, st.tuples(TEXT, TEXT).map("=".join)), max_size=4))
def test_any_pairs_of_words(words):
    pairs = told(parser.pairs_of, "--set", words, "FIELD=VALUE")
    assert pairs is None or len(pairs) == len(words)


# ------------------------------------------------------------------------------------------------ tokenizers, networks


@slow
@given(st.one_of(JUNK, spoilt(networks.words("?", "</s>").encode()), VALUES.map(as_json)))
def test_any_tokenizer(tmp_path, content):
    found = told(local.load_tokenizer, written(tmp_path, "tokenizer.json", content))
    assert found is None or found.eos_token_id is not None


@quick
@given(st.one_of(JUNK, spoilt(json.dumps(networks.CONFIG).encode()), VALUES.map(as_json)))
def test_any_configuration_is_an_object(tmp_path, content):
    written(tmp_path, "config.json", content)
    found = told(folders.read_config, tmp_path)
    assert found is None or isinstance(found, dict)


@slow
@given(st.one_of(spoilt(json.dumps(networks.CONFIG).encode()), changed(networks.CONFIG).map(as_json)))
def test_any_configuration_of_a_network(tmp_path, content):
    written(tmp_path, "config.json", content)
    told(pretrained.read_config, tmp_path)


@quick
@given(
    st.one_of(
        JUNK,
        spoilt(networks.WHOLE),
        st.tuples(st.dictionaries(TEXT, VALUES, max_size=2), st.integers(0, 20)).map(
            lambda parts: networks.tensors(json.loads(as_json(parts[0])), parts[1])
        ),
    )
)
def test_any_weights_are_refused_by_their_header_or_by_the_library(tmp_path, content):
    file = written(tmp_path, "model.safetensors", content)
    with suppress(UserError):
        folders.check_weights(file)
        return
    with pytest.raises(Exception):  # noqa: B017 - of the library, whose class is its own
        safe_open(file, "pt")


@slow
@given(
    st.one_of(JUNK, changed({"base_config": networks.CONFIG, "hidden_size": 8, "bias": 0.5}).map(as_json)),
    st.one_of(JUNK, st.just(networks.WHOLE), spoilt(networks.WHOLE)),
)
def test_any_folder_where_a_stage_starts(tmp_path, config, weights):
    written(tmp_path, "config.json", config)
    written(tmp_path, "model.safetensors", weights)
    told(starts.start_of, str(tmp_path), "", 1, "rm")
    told(starts.is_released_reward_model, tmp_path)
    told(starts.load_released_reward_model, tmp_path)
    told(pretrained.load_scalar, tmp_path)
    told(starts.load_policy, tmp_path)


# ------------------------------------------------------------------------------------------------ a judge's answers


@quick
@given(
    st.one_of(
        TEXT, st.lists(st.sampled_from(["Preferred: ", "A", "B", "\n", '"', "Comparison: "]), max_size=8).map("".join)
    )
)
def test_any_answer_prefers_one_or_none(answer):
    assert prompt.preference(answer) in ("A", "B", "")
    assert isinstance(prompt.explanation(answer), str)


RECORD = {"key": "k", "answer": "Preferred: A", "time": "now", "answered_by": "m", "host": "h", "prompt_tokens": 3}


@quick
@given(st.lists(st.one_of(JUNK, changed(RECORD).map(as_json), spoilt(as_json(RECORD))), max_size=4).map(b"\n".join))
def test_any_file_of_answers(tmp_path, content):
    written(tmp_path, "old.jsonl", content)
    for found in answers.Answers(tmp_path).known.values():
        assert all(isinstance(found[name], str) for name in ("key", "answer", "time"))


@quick
@given(VALUES, VALUES, VALUES)
def test_any_reply_is_an_answer_or_none(content, model, usage):
    message = SimpleNamespace(message=SimpleNamespace(content=content))
    counts = SimpleNamespace(prompt_tokens=usage, completion_tokens=usage)
    for reply in (
        SimpleNamespace(choices=[message], model=model, usage=counts),
        SimpleNamespace(choices=content),
        content,
    ):
        with suppress(answers.Unanswered):
            assert isinstance(answers._content(reply), str)
            assert isinstance(answers._model(reply), str)
            assert all(count >= 0 for count in answers._usage(reply).values())


@quick
@given(TEXT, TEXT)
def test_any_address_of_a_judge(model, address):
    for each in (address, f"http://{address}", f"http://host:{address}/v1"):
        who = told(endpoint.judge, model, each)
        assert who is None or str(who.host).isprintable()


# ------------------------------------------------------------------------------------------------ messages


@quick
@given(st.text(st.characters(exclude_categories=()), max_size=500))
def test_any_text_in_a_message(text):
    said = str(UserError(text))
    assert said.encode() is not None and said == printable(said) and printable(printable(text)) == printable(text)
    assert len(quoted(text)) <= 10 * 60 + 40 and "\n" not in reason(ValueError(text))


@quick
@given(TEXT)
def test_any_name_of_visible_devices(names):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", names.replace("\x00", "").encode("utf-8", "ignore").decode())
        assert isinstance(launch.visible_devices(), tuple)
