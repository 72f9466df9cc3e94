"""What is typed after each verb."""

from tests.bad_input.case import FOLDER, Case, Link

VERBS = (
    "details docs plan run report atlas figures gallery inspect calibrate fetch judge ui import pretrain stage".split()
)
# The words that each verb needs.
LEAST = {
    "details": "",
    "docs": "",
    "plan": "whiten_adv",
    "run": "whiten_adv",
    "report": "whiten_adv",
    "atlas": "",
    "figures": "",
    "gallery": "",
    "inspect": "whiten_adv/off/1",
    "calibrate": "",
    "fetch": "pythia-160m",
    "judge": "whiten_adv --model m",
    "ui": "whiten_adv",
    "import": "elsewhere",
    "pretrain": "base",
    "stage": "job.json",
}
# Options of each verb that take a value.
OPTIONS = {
    "plan": ("scale", "seeds", "until", "looks", "arms", "set", "with"),
    "run": ("scale", "seeds", "until", "looks", "arms", "set", "with", "engine", "slurm"),
    "report": ("scale", "seeds", "until", "looks", "arms", "set", "with", "format"),
    "atlas": ("scale", "seeds", "set", "engine", "slurm"),
    "gallery": ("episodes",),
    "inspect": ("episode",),
    "calibrate": ("seeds",),
    "fetch": ("set", "to", "check"),
    "judge": (
        *("scale", "base-url", "key-env", "posts", "temperature", "max-tokens", "threads", "price-in", "price-out"),
    ),
    "ui": ("scale", "port"),
    "pretrain": ("steps",),
}
NEEDS_A_NAME = {
    "inspect": "RUN",
    "fetch": "SCALE",
    "judge": "DETAIL",
    "import": "STORE",
    "pretrain": "folder",
    "stage": "FILE",
}
TAKES_NO_WORD = ("docs", "figures", "calibrate")

CASES = [
    Case("", "the following arguments are required: VERB"),
    Case("rum whiten_adv", "argument VERB: invalid choice: 'rum'"),
    Case("<long>", "argument VERB: invalid choice: 'aaaaa"),
    Case("'<esc>'", r"argument VERB: invalid choice: '\\x1b"),
    Case("RUN whiten_adv", "argument VERB: invalid choice: 'RUN'"),
    Case("''", "a word is empty; say what is meant, or leave it out"),
    Case("--version", "arguments are required: VERB|unrecognized arguments"),
    *(Case(f"{verb} {LEAST[verb]} --colour red", "unrecognized arguments: --colour") for verb in VERBS),
    *(Case(f"{verb} {LEAST[verb]} ''", "a word is empty; say what is meant, or leave it out") for verb in VERBS),
    *(Case(verb, f"arguments are required: {name}") for verb, name in NEEDS_A_NAME.items()),
    *(Case(verb, "name a detail, such as whiten_adv, or give --config FILE") for verb in ("plan", "run", "report")),
    *(Case(f"{verb} more", "unrecognized arguments: more") for verb in TAKES_NO_WORD),
    *(
        Case(f"{verb} {LEAST[verb]} --{option} ''", f"--{option} has a value that is empty; say what is meant")
        for verb, options in OPTIONS.items()
        for option in options
    ),
    *(
        Case(f"{verb} {LEAST[verb]} --{option}", f"argument --{option}: expected (at least )?one argument")
        for verb, options in OPTIONS.items()
        for option in options
        if (verb, option) != ("fetch", "check")
    ),
    Case("judge whiten_adv", "arguments are required: --model"),
    Case("judge whiten_adv --model", "argument --model: expected one argument"),
    Case("judge whiten_adv --model ''", "--model has a value that is empty"),
    # Names
    Case("details whiten_avd", "no detail or check 'whiten_avd'; did you mean 'whiten_adv'.* and [0-9]+ more"),
    Case("details <long>", r"no detail or check 'a{40}'\.\.\.; known: "),
    Case("details '<esc>'", r"no detail or check '\\x1b\[31m'; known: "),
    Case("details whiten_adv value_clip", "unrecognized arguments: value_clip"),
    Case("details '[/b]'", r"no detail or check '\[/b\]'"),
    Case("details Whiten_Adv", "no detail or check 'Whiten_Adv'; did you mean 'whiten_adv'"),
    *(
        Case(f"{verb} whiten_avd", "there is no detail 'whiten_avd'; did you mean 'whiten_adv'.*make details lists all")
        for verb in ("plan", "run", "atlas")
    ),
    *(Case(f"{verb} <long>", r"there is no detail 'a{40}'\.\.\.") for verb in ("plan", "run", "atlas")),
    *(Case(f"{verb} '<esc>'", r"there is no detail '\\x1b\[31m'") for verb in ("plan", "run", "atlas")),
    *(Case(f"{verb} '<rtl>'", r"there is no detail '\\u202e'") for verb in ("plan", "run")),
    *(Case(f"{verb} '<half>'", r"there is no detail '\\udcff'") for verb in ("plan", "run")),
    *(Case(f"{verb} calibration", "calibration is a check, not a choice") for verb in ("plan", "run", "atlas")),
    Case("plan ' '", "a word is empty"),
    Case("plan .", "there is no detail '.'"),
    Case("plan ..", r"there is no detail '\.\.'"),
    Case("plan /", "there is no detail '/'"),
    Case("plan 'whiten_adv value_clip'", "there is no detail 'whiten_adv value_clip'"),
    Case("plan whiten_adv.toml", "there is no detail 'whiten_adv.toml'; did you mean 'whiten_adv'"),
    Case("plan '[/b]'", r"there is no detail '\[/b\]'"),
    Case("plan whiten_adv=off", "there is no detail 'whiten_adv=off'; did you mean 'whiten_adv'"),
    # Scales
    *(
        Case(f"{verb} whiten_adv --scale smoek", "there is no scale 'smoek'; did you mean 'smoke'")
        for verb in ("plan", "run", "atlas")
    ),
    Case("plan whiten_adv --scale <long>", r"there is no scale 'a{40}'\.\.\."),
    Case("plan whiten_adv --scale '<esc>'", r"there is no scale '\\x1b"),
    Case("plan whiten_adv --scale SMOKE", "there is no scale 'SMOKE'"),
    Case("plan whiten_adv --scale '[/b]'", r"there is no scale '\[/b\]'"),
    Case("plan whiten_adv --scale mini-episodes=64", "there is no scale 'mini-episodes=64'; did you mean 'mini'|known"),
    Case("fetch pythia-1B", "there is no scale 'pythia-1B'; did you mean 'pythia-1b'"),
    Case("fetch <long>", r"there is no scale 'a{40}'\.\.\."),
    Case("fetch pythia-160m --check 0", "0 is not a whole number above 0"),
    Case("fetch pythia-160m --check many", "many is not a whole number above 0"),
    Case("fetch pythia-160m --to file", "the target folder file is not writable", {"file": ""}),
    Case("fetch pythia-160m --to file/in/it", "the target folder file/in/it is not writable", {"file": ""}),
    Case("fetch pythia-160m --to link", "the target folder link is not writable", {"link": Link("nowhere/at/all")}),
    Case("fetch pythia-160m --set tokenizer", "--set 'tokenizer' has no value; write FIELD=VALUE"),
    Case("fetch local", "scale local needs tokenizer"),
    # Arms and shared choices
    Case("plan whiten_adv --arms of", "whiten_adv has no variant 'of'; did you mean 'off'"),
    Case("plan whiten_adv --arms <long>", r"whiten_adv has no variant 'a{40}'\.\.\."),
    Case("plan whiten_adv --arms '<esc>'", r"whiten_adv has no variant '\\x1b"),
    Case("plan whiten_adv --arms off of", "whiten_adv has no variant 'of'"),
    Case("plan gamma --arms nan", "gamma has no variant 'nan'"),
    Case("plan whiten_adv --with gamma", "--with 'gamma' has no value; write DETAIL=LABEL"),
    Case("plan whiten_adv --with gamma=", "gamma has no variant ''"),
    Case("plan whiten_adv --with =1", "there is no detail ''"),
    Case("plan whiten_adv --with gama=1", "there is no detail 'gama'; did you mean 'gamma'"),
    Case("plan whiten_adv --with gamma=2", "gamma has no variant '2'"),
    Case("plan whiten_adv --with gamma=1 gamma=1", "--with gamma is given twice, as 1 and 1"),
    Case("plan whiten_adv --with whiten_adv=off", "whiten_adv is what the study varies"),
    Case("plan whiten_adv --with calibration=1", "calibration is a check, not a choice"),
    Case("plan kl_coef --with kl_placement=none", "make no sense together"),
    Case("plan whiten_adv --with <long>=1", r"there is no detail 'a{40}'\.\.\."),
    Case("plan whiten_adv --with gamma=<long>", r"gamma has no variant 'a{40}'\.\.\."),
    # Whatever runs stages
    Case("run whiten_adv --engine locl", "there is no engine 'locl'; did you mean 'local'"),
    Case("run whiten_adv --engine <long>", r"there is no engine 'a{40}'\.\.\.; known: local, slurm"),
    Case("atlas --engine cloud", "there is no engine 'cloud'; known: local, slurm"),
    Case("run whiten_adv --slurm partition=gpu", "--slurm needs --engine slurm; add that, or leave --slurm out"),
    Case("atlas --slurm partition=gpu", "--slurm needs --engine slurm"),
    Case("run whiten_adv --set sampler=vllm", "sampler=vllm needs vLLM: pip install"),
    Case("atlas --set sampler=vllm", "sampler=vllm needs vLLM: pip install"),
    Case("run whiten_adv --set sharding=fsdp", "sharding=fsdp is among several ranks; set processes to 2 or more"),
    Case("run whiten_adv --set sharding=zero2 processes=2 precision=float32", "sharding=zero2 needs GPUs"),
    Case("plan weight_average --set sharding=fsdp processes=2", "needs all weights on each rank, and sharding=fsdp"),
    Case(
        "plan constrained_step --set sharding=fsdp processes=2", "constrained_step=trpo needs all weights on each rank"
    ),
    Case("plan whiten_adv --set sharding=zero3", "would round the reward's bias and the rotary frequencies"),
    # Episodes, pages, files
    *(
        Case(f"inspect whiten_adv/off/1 --episode {word}", "is not the number of an episode: 0 or more")
        for word in ("-1", "1.5", "one", "nan", "<digits>")
    ),
    Case("inspect whiten_adv/off/1 --episode ²", "² is not the number of an episode"),
    *(
        Case(f"gallery --episodes {word}", "is not a whole number above 0")
        for word in ("0", "-1", "1.5", "all", "inf", "<digits>")
    ),
    *(
        Case(f"pretrain base --steps {word}", "is not a whole number above 0")
        for word in ("0", "-5", "1e3", "many", "nan", "<digits>")
    ),
    Case("pretrain file", "the target folder file is not writable .File exists.; choose another one", {"file": ""}),
    Case("pretrain file/in", "the target folder file/in is not writable .Not a directory.", {"file": ""}),
    Case("pretrain <long>", "the target folder a+ is not writable .File name too long."),
    Case("pretrain link", "the target folder link is not writable", {"link": Link("nowhere/at/all")}),
    Case("pretrain base --step", "argument --steps: expected one argument"),
    Case("stage nowhere.json", "nowhere.json is no job of this version"),
    Case("stage folder", "folder is no job of this version", {"folder": FOLDER}),
    Case("stage job.json", "job.json is no job of this version", {"job.json": "garbage"}),
    Case("stage job.json", "job.json is no job of this version", {"job.json": "[]"}),
    Case("stage job.json", "job.json is no job of this version", {"job.json": b"\xff\xfe\x00"}),
    Case("stage job.json", "job.json is no job of this version", {"job.json": '{"cache": 3, "recipe": 1}'}),
]
