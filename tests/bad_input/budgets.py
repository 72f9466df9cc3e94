"""What --set gives to the fields of a Scale."""

from dataclasses import fields

from repro.study.scale import LARGEST, MADE, MAY_BE_NONE, MOST, ROWS, WORDS, Scale
from tests.bad_input.case import FOLDER, Case, Link

KINDS = {each.name: each.type for each in fields(Scale)}
LIMITS = MOST | dict.fromkeys(MADE, ROWS)
WHOLE = [name for name, kind in KINDS.items() if kind is int]
FRACTIONS = [name for name, kind in KINDS.items() if kind is float]
SOURCES = ("model", "tokenizer", "posts_file", "comparisons_file", "sft_from", "rm_from", "policy_from", "annotator")
STARTS = SOURCES[-4:]
BATCHES = (("episodes", "ppo_batch"), ("posts", "ppo_batch"), ("posts", "sft_batch"), ("comparisons", "rm_batch"))
NEEDS_A_TOKENIZER = "scale embedded needs tokenizer; give --set tokenizer=PATH"


def on(field: str, value: str, says: str, files: dict = {}) -> Case:
    """A case of one field."""
    return Case(f"plan whiten_adv --scale smoke --set '{field}={value}'", says, files)


CASES = [
    Case("plan whiten_adv --set episodes", "--set 'episodes' has no value; write FIELD=VALUE, such as episodes=512"),
    Case("plan whiten_adv --set <long>", r"--set 'a{40}'\.\.\. has no value"),
    Case("plan whiten_adv --set '<esc>'", r"--set '\\x1b\[31m' has no value"),
    Case("plan whiten_adv --set =512", "a scale has no field ''"),
    Case(
        "plan whiten_adv --set episode=3",
        "a scale has no field 'episode'; did you mean 'episodes'.*and [0-9]+ more; docs/api/study.md lists",
    ),
    Case("plan whiten_adv --set Episodes=3", "a scale has no field 'Episodes'; did you mean 'episodes'"),
    Case("plan whiten_adv --set <long>=3", r"a scale has no field 'a{40}'\.\.\."),
    Case("plan whiten_adv --set '<esc>=3'", r"a scale has no field '\\x1b"),
    Case("plan whiten_adv --set name=mine", "a scale has no field 'name'"),
    Case("plan whiten_adv --set whiten_adv=off", "a scale has no field 'whiten_adv'"),
    Case("plan whiten_adv --set seeds=1,2", "seeds are no budget; give them as --seeds 1 2 3"),
    Case("plan whiten_adv --set posts=64 posts=65", "--set posts is given twice, as 64 and 65; give it once"),
    Case("plan whiten_adv --set posts=64,episodes=64", "posts='64,episodes=64' is not an integer"),
    Case("run whiten_adv --set posts=many", "posts='many' is not an integer"),
    Case("atlas --set posts=many", "posts='many' is not an integer"),
    Case("report whiten_adv --set posts", "--set 'posts' has no value; write FIELD=VALUE"),
    Case("fetch pythia-160m --set posts=many", "posts='many' is not an integer"),
    Case("fetch pythia-160m --set seeds=one", "seeds='one' is not a list of integers"),
    Case("fetch pythia-160m --set seeds=", "seeds='' is not a list of integers"),
    Case("fetch pythia-160m --set seeds=1,1", "seeds 1 1 repeat; give each once"),
    Case("fetch pythia-160m --set seeds=-1", "seed -1 is out of range"),
    Case("fetch pythia-160m --set seeds=99999999999", "seed 99999999999 is out of range"),
    *(on(field, "many", f"{field}='many' is not an integer") for field in WHOLE),
    *(on(field, "1.5", f"{field}='1.5' is not an integer") for field in WHOLE),
    *(
        on(field, "-1", f"{field}=-1 must be at least {int(field not in MAY_BE_NONE)}")
        for field in WHOLE
        if field != "corpus_seed"
    ),
    *(on(field, "0", f"{field}=0 must be at least 1") for field in WHOLE if field not in MAY_BE_NONE),
    *(on(field, "99999999999", f"{field}=99999999999 must be at most {LIMITS.get(field, LARGEST)}") for field in WHOLE),
    *(on(field, str(most + 1), f"{field}={most + 1} must be at most {most}") for field, most in LIMITS.items()),
    on("corpus_seed", "-99999999999", "corpus_seed=-99999999999 must be at least -2147483647"),
    *(
        on("posts", word, "posts=.* is not an integer")
        for word in ("", "nan", "inf", "1e3", "0x10", "1_000", "٣", "+5")
    ),
    on("posts", "<digits>", r"posts='9{40}'\.\.\. is not an integer"),
    on("posts", "<esc>", r"posts='\\x1b\[31m' is not an integer"),
    on("posts", "64 ", "posts='64 ' is not an integer"),
    *(on(field, "slow", f"{field}='slow' is not a number") for field in FRACTIONS),
    *(on(field, "nan", f"{field}=nan must be above 0, and finite") for field in FRACTIONS),
    *(on(field, "inf", f"{field}=inf must be above 0, and finite") for field in FRACTIONS),
    *(on(field, "-1", f"{field}=-1.0 must be above 0, and finite") for field in FRACTIONS),
    *(on(field, "0", f"{field}=0.0 must be above 0, and finite") for field in FRACTIONS),
    on("kl_cap", "1e999", "kl_cap=inf must be above 0, and finite"),
    on("kl_cap", "1e-999", "kl_cap=0.0 must be above 0, and finite"),
    on("kl_cap", "", "kl_cap='' is not a number"),
    on("kl_cap", "<long>", r"kl_cap='a{40}'\.\.\. is not a number"),
    on("kl_cap", "3,5", "kl_cap='3,5' is not a number"),
    *(on(field, "nonsense", f"{field}='nonsense' is unknown; .*known: {words[0]}") for field, words in WORDS.items()),
    *(on(field, words[0].upper(), f"{field}='{words[0].upper()}' is unknown") for field, words in WORDS.items()),
    *(on(field, "", f"{field}='' is unknown; known: ") for field in WORDS if field != "corpus"),
    on("precision", "<long>", r"precision='a{40}'\.\.\. is unknown; known: auto"),
    on("precision", "float23", "precision='float23' is unknown; did you mean 'float32'"),
    *(
        on(field, "1", f"{field}=1 is less than one batch; it must be at least {batch}=")
        for field, batch in BATCHES
        if batch != "sft_batch"
    ),
    on("sft_batch", "1024", "posts=512 is less than one batch; it must be at least sft_batch=1024"),
    on("ppo_batch", "1024", "episodes=128 is less than one batch; it must be at least ppo_batch=1024"),
    on("rm_batch", "1024", "comparisons=256 is less than one batch; it must be at least rm_batch=1024"),
    # Sources
    *(
        on(field, "nowhere", f"{field} 'nowhere' does not exist; give the path of a file or folder that does")
        for field in SOURCES
        if field != "model"
    ),
    *(
        on(field, "link", rf"{field} 'link' does not exist \(it is a broken link\)", {"link": Link("nowhere")})
        for field in SOURCES
        if field != "model"
    ),
    *(on(field, "/dev/null", f"{field} '/dev/null' is neither a file nor a folder") for field in SOURCES),
    *(on(field, "/", f"{field} '/' holds (more than 10,000 files|no)") for field in SOURCES),
    on("model", "folder", "model 'folder' holds no network; a folder with config.json and weights", {"folder": FOLDER}),
    on(
        "tokenizer", "folder", "tokenizer 'folder' holds no tokenizer; a folder with tokenizer.json", {"folder": FOLDER}
    ),
    *(on(field, "folder", f"{field} 'folder' holds no network", {"folder": FOLDER}) for field in STARTS),
    *(on(field, "file", f"{field} 'file' is a file; the folder with config.json", {"file": ""}) for field in STARTS),
    on("model", "file", "model 'file' is a file; the folder with config.json", {"file": ""}),
    on("tokenizer", "<long>", "tokenizer 'a+' does not exist"),
    on("tokenizer", "<esc>", r"tokenizer '\\x1b\[31m' does not exist"),
    on("tokenizer", "", NEEDS_A_TOKENIZER),
    on("tokenizer", " ", NEEDS_A_TOKENIZER),
    on("model", "", "scale embedded needs model; give --set model=PATH"),
    *(
        Case(f"plan whiten_adv --scale local --set {given}", f"scale local needs {missing}; give --set {missing}=PATH")
        for missing, given in (
            ("tokenizer", "posts_file=. comparisons_file=."),
            ("posts_file", "tokenizer=. comparisons_file=."),
            ("comparisons_file", "tokenizer=. posts_file=."),
        )
    ),
    Case("plan whiten_adv --scale local", "scale local needs tokenizer; give --set tokenizer=PATH"),
    *(
        Case(f"plan whiten_adv --scale pythia-160m --set {field}=", f"scale tldr needs {field}")
        for field in SOURCES[1:4]
    ),
    # Shapes
    *(
        on(
            "model",
            shape,
            "is neither a model's folder nor a shape; a shape is gpt-neox:HIDDEN/LAYERS/HEADS/INTERMEDIATE",
        )
        for shape in (
            "neox",
            "gpt-neox:",
            "gpt-neox:32/2/2",
            "gpt-neox:32/2/2/64/1",
            "gpt-neox:32/2/3/64",
            "gpt-neox:32/2/0/64",
            "gpt-neox:0/2/2/64",
            "gpt-neox:-32/2/2/64",
            "gpt-neox:32/two/2/64",
            "gpt-neox:32/2/2/6.4",
            "gpt-neox:32/2/2/²",
            "gpt-neox:999999/2/1/64",
            "gpt-neox:<digits>/2/2/64",
            "llama:32/2/2/64",
            "<long>",
            "<esc>",
            "[/b]",
        )
    ),
    # References to the hub
    *(
        on(field, reference, "is no reference to the hub; write hub:OWNER/NAME@REVISION for a model")
        for field, reference in (
            ("model", "hub:"),
            ("model", "hub:a"),
            ("model", "hub:a/b"),
            ("model", "hub:a/b@"),
            ("model", "hub:a@main"),
            ("model", "hub:a/b/c@main"),
            ("model", "hub:../b@main"),
            ("model", "hub:a/..@main"),
            ("model", "hub:a/b@../../x"),
            ("model", "hub:a/b@main/../../x"),
            ("model", "hub:a/b@main//x"),
            ("model", "hub:a/b@ma in"),
            ("model", "hub:ü/b@main"),
            ("model", "hub:a/b@<esc>"),
            ("model", "hub:<long>/b@main"),
            ("tokenizer", "hub:spaces/a/b@main"),
            ("sft_from", "hub:a/b@{seed}/../x"),
            ("posts_file", "hub:datasets/a/b"),
        )
    ),
    on(
        "model",
        "hub:datasets/a/b@main",
        "model='hub:datasets/a/b@main' names a dataset on the hub, but a model is needed",
    ),
    on("tokenizer", "hub:datasets/a/b@main", "names a dataset on the hub, but a model is needed"),
    on("posts_file", "hub:a/b@main", "names a model on the hub, but a dataset is needed"),
    on("comparisons_file", "hub:a/b@main", "names a model on the hub, but a dataset is needed"),
    *(on(field, "released", "the authors released no (sft|rm|ppo) checkpoint of seed") for field in STARTS),
    # Who compares in rounds of feedback
    *(
        on("annotator", word, "annotator='judge:.* names no model; write judge:MODEL, such as judge:gpt-4o-mini")
        for word in ("judge:", "judge: ", "judge: oracle", "judge:<esc>", "judge:a\nb", "judge:<rtl>m")
    ),
    *(
        on(
            "judge_prices",
            word,
            "judge_prices=.* are not the prices of a million prompt tokens and a million completion",
        )
        for word in ("cheap", "1", "1,2,3", "-1,2", "nan,1", "1,inf", ",", "1;2", "<esc>", "<long>")
    ),
    *(
        Case(
            f"{verb} feedback_rounds --scale smoke --set annotator=judge:oracle 'judge_url={address}'",
            "the judge's address is not of the form http://HOST:PORT/v1; .* named by --key-env or judge_key_env",
        )
        for verb in ("plan", "run", "atlas --plan")
        for address in ("nonsense", "ftp://host/v1", "http://key@host/v1", "http://host:port/v1")
    ),
    Case(
        "run feedback_rounds --scale smoke --set annotator=judge:oracle judge_key_env=NO_SUCH_KEY",
        "the environment has no NO_SUCH_KEY; set it to the judge's key, or name another with --key-env or judge_key_env",
    ),
    Case(
        "run feedback_rounds --scale smoke --set annotator=judge:oracle",
        "the environment has no OPENAI_API_KEY; set it to the judge's key",
    ),
    Case(
        "run feedback_rounds --scale smoke --set annotator=no-{seed}",
        "'no-1', the annotator of seed 1, is no folder; give one with config.json and weights",
    ),
]
