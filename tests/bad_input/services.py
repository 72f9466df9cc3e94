"""What is asked of a judge, of SLURM, of stores and their pages; and the environment's variables."""

from tests.bad_input.case import FOLDER, Case, Link

NOT_COUNTS = ("0", "-1", "1.5", "many", "nan", "inf", "1e3", "²", "<digits>", "<esc>")
NOT_AMOUNTS = ("nan", "inf", "-inf", "-1", "cheap", "1,5", "1e999", "<digits>x", "<esc>", "--")
ADDRESSES = (
    "localhost:8000",
    "ftp://host/v1",
    "http://",
    "http:///v1",
    "http://host:0/v1",
    "http://host:99999/v1",
    "http://host:port/v1",
    "http://key@host/v1",
    "http://me:key@host/v1",
    "http://host/v1?key=secret",
    "file:///etc/passwd",
    "http://[::1/v1",
    "http://host\n/v1",
    "<long>",
    "http://ho<esc>st/v1",
)
JUDGE = "judge whiten_adv --model m"
SLURM = "run whiten_adv --engine slurm --slurm"

JUDGES = [
    *(
        Case(
            f"{JUDGE} --{option} {word}", f"argument --{option}: .* is not a whole number above 0|expected one argument"
        )
        for option in ("posts", "max-tokens", "threads")
        for word in NOT_COUNTS
    ),
    *(
        Case(
            f"{JUDGE} --price-in {word} --price-out 1",
            "is not a price: a number that is 0 or more|expected one argument",
        )
        for word in NOT_AMOUNTS
    ),
    *(
        Case(f"{JUDGE} --price-in 1 --price-out {word}", "--price-out: .* is not a price")
        for word in ("nan", "inf", "-1")
    ),
    *(
        Case(f"{JUDGE} --temperature {word}", "is not a temperature: a number that is 0 or more|expected one argument")
        for word in NOT_AMOUNTS
    ),
    Case(f"{JUDGE} --price-in 1", "the cost needs both prices; give --price-in and --price-out"),
    Case(f"{JUDGE} --price-out 1", "the cost needs both prices; give --price-in and --price-out"),
    *(
        Case(
            f"{JUDGE} --base-url '{address}'",
            "the judge's address is not of the form http://HOST:PORT/v1; a key belongs",
        )
        for address in ADDRESSES
    ),
    *(
        Case(JUDGE, "the judge's address is not of the form http://HOST:PORT/v1", env={"OPENAI_BASE_URL": address})
        for address in ("nonsense", "ftp://host", "http://host:0")
    ),
    Case("judge whiten_adv --model '\n'", "--model has a value that is empty"),
    Case("judge whiten_adv --model 'a\nb'", r"the judge's model 'a\\nb' is no name"),
    Case("judge whiten_adv --model '<esc>'", r"the judge's model '\\x1b\[31m' is no name"),
    Case("judge whiten_adv --model '<rtl>m'", r"the judge's model '\\u202em' is no name"),
    Case(JUDGE, "there is no MLflow store|holds no study"),
    Case(f"{JUDGE} --scale <long>", "there is no MLflow store|holds no study"),
]

CLUSTER = [
    Case(f"{SLURM} partition", "--slurm 'partition' has no value; write KEY=VALUE, such as partition=gpu time=1440"),
    Case(f"{SLURM} <long>", r"--slurm 'a{40}'\.\.\. has no value; write KEY=VALUE"),
    Case(f"{SLURM} time=1 time=2", "--slurm time is given twice, as 1 and 2; give it once"),
    Case(f"{SLURM} =gpu", "--slurm has no ''"),
    Case(f"{SLURM} partion=gpu", "--slurm has no 'partion'; did you mean 'partition'"),
    Case(f"{SLURM} <long>=gpu", r"--slurm has no 'a{40}'\.\.\."),
    Case(f"{SLURM} '<esc>=gpu'", r"--slurm has no '\\x1b"),
    Case(f"{SLURM} --partition=gpu", "unrecognized arguments|expected at least one argument"),
    *(
        Case(
            f"{SLURM} time='{word}'",
            "--slurm time=.* is not a number of minutes from 1 to 525600; write it as time=1440",
        )
        for word in ("", "0", "-1", "1.5", "1-00:00", "1h", "nan", "inf", "²", "525601", "<digits>", "<esc>")
    ),
    *(
        Case(f"{SLURM} gpus_per_node='{word}'", "--slurm gpus_per_node=.* is not a number from 0 to 1024; write it as")
        for word in ("", "-1", "1.5", "all", "nan", "²", "1025", "gpu:1")
    ),
    *(
        Case(f"{SLURM} gres='{word}'", "--slurm gres=.* is not what SLURM reads; write it as gres=gpu:1")
        for word in ("gpu:", "gpu:-1", "gpu:²", "gpu:1.5", ":1", "gpu:1,", "gpu 1", "gpu:a100:99999", "gpu:1;rm", ",")
    ),
    *(
        Case(f"{SLURM} mem='{word}'", "--slurm mem=.* is not what SLURM reads; write it as mem=64G")
        for word in ("much", "-1", "1.5G", "64 G", "64X", "²G", "G")
    ),
    *(
        Case(f"{SLURM} {name}=", f"--slurm {name}='' is no line of text; write KEY=VALUE")
        for name in ("partition", "account", "qos", "constraint", "exclude", "nodelist", "setup", "reservation")
    ),
    Case(f"{SLURM} 'partition=gpu\n#SBATCH --uid=0'", r"--slurm partition='gpu\\n#SBATCH --uid=0' is no line of text"),
    Case(f"{SLURM} 'setup=<esc>'", r"--slurm setup='\\x1b\[31m' is no line of text"),
    Case("atlas --engine slurm --slurm time=never", "--slurm time='never' is not a number of minutes"),
    Case("run whiten_adv --engine slurm", "needs submitit|there is no sbatch on this machine"),
]

STORES = [
    *(
        Case(f"ui whiten_adv --port {word}", "is not a port: a whole number from 1 to 65535|expected one argument")
        for word in ("0", "-1", "65536", "70000", "1.5", "http", "nan", "²", "<digits>", "<esc>")
    ),
    Case("ui whiten_adv", "there is no MLflow store .* yet; run a study"),
    Case("ui", "there is no MLflow store .* yet; run a study"),
    Case("ui <long>", "there is no MLflow store .* yet; run a study"),
    Case("report whiten_adv", "there is no MLflow store|holds no"),
    Case("report whiten_avd", "there is no MLflow store|holds no|no detail"),
    Case("figures", "there is no MLflow store .* yet; run a study"),
    Case("gallery", "there is no MLflow store .* yet; run a study"),
    Case("inspect whiten_adv/off/1", "there is no MLflow store"),
    Case("inspect <long>", "there is no MLflow store"),
    Case("inspect '<esc>' --episode 0", "there is no MLflow store"),
    *(
        Case(
            f"import '{address}'",
            "cannot be read: .*(is no kind of store|is no address of a store); give sqlite:///mlflow.db, a server such as http://HOST:5000",
        )
        for address in ("ftp://host/mlflow.db", "spam://eggs", "s3://bucket/mlflow", "://", "file:///tmp", "<esc>://x")
    ),
    *(
        Case(f"import '{address}'", "cannot be read: it is no address of a server|there is no host")
        for address in ("http://", "https://", "http://host:0", "http://host:99999", "http://host:x", "http://[::1")
    ),
    *(
        Case(f"import '{address}'", "there is no MLflow store .*; give an mlflow.db, its folder, or a server's address")
        for address in (
            "nowhere",
            "nowhere/mlflow.db",
            "<long>",
            "<esc>",
            "/dev/null",
            "sqlite:///no.db",
            "sqlite://",
            "[/b]",
        )
    ),
    Case("import folder", "there is no MLflow store folder/mlflow.db", {"folder": FOLDER}),
    Case("import folder", "there is no MLflow store folder/mlflow.db", {"folder/mlflow.db": FOLDER}),
    Case("import link", "there is no MLflow store link", {"link": Link("nowhere")}),
    *(
        Case("import it.db", "it.db is not an MLflow store; give a file that MLflow wrote", {"it.db": content})
        for content in ("", "a diary\n" * 100, b"SQLite format 3\x00" + b"\x00" * 84, b"\xff" * 100)
    ),
]

PLAN, SMALL = "plan whiten_adv --scale smoke", "run whiten_adv --scale smoke"
ENVIRONMENT = [
    *(
        Case(
            verb,
            "the cache folder file is not writable .Not a directory.; set REPRO_CACHE to a folder that is",
            files,
            env,
        )
        for verb, files, env in (
            (PLAN, {"file": ""}, {"REPRO_CACHE": "file"}),
            (SMALL, {"file": ""}, {"REPRO_CACHE": "file"}),
            ("atlas --plan", {"file": ""}, {"REPRO_CACHE": "file"}),
        )
    ),
    Case(PLAN, "the cache folder file/in is not writable .Not a directory.", {"file": ""}, {"REPRO_CACHE": "file/in"}),
    Case(PLAN, "the cache folder link is not writable", {"link": Link("nowhere/at/all")}, {"REPRO_CACHE": "link"}),
    Case(PLAN, "the cache folder /dev/null/x is not writable", env={"REPRO_CACHE": "/dev/null/x"}),
    Case(PLAN, "the cache folder /proc/x is not writable", env={"REPRO_CACHE": "/proc/x"}),
    Case(PLAN, r"the cache folder file\\nb is not writable", {"file\nb": ""}, {"REPRO_CACHE": "file\nb"}),
    Case(PLAN, r"the cache folder \\x1b\[31m is not writable", {"\x1b[31m": ""}, {"REPRO_CACHE": "\x1b[31m"}),
    Case(SMALL, "the report folder reports/build is not writable .Not a directory.", {"reports": ""}),
    Case(SMALL, "the report folder reports/build is not writable", {"reports/build": ""}),
    Case("report whiten_adv", "the report folder reports/build is not writable", {"reports": ""}),
    Case("figures", "the report folder reports/build is not writable", {"reports": ""}),
    Case("atlas --plan", "the report folder reports/build is not writable", {"reports": ""}),
    Case("gallery", "the report folder reports/gallery is not writable", {"reports": ""}),
    Case(JUDGE, "the report folder reports/build is not writable", {"reports": ""}),
    Case("calibrate --seeds 1 2", "the (documentation|cache) folder .* is not writable", {"docs": "", "cache": ""}),
]
CASES = JUDGES + CLUSTER + STORES + ENVIRONMENT
