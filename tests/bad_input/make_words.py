"""What is typed after `make TARGET`: (words, what the words of the program are, or what make says itself)."""

# What a target needs and was not given: nothing may be installed before it is said.
MISSING = [
    *((target, (), "error: say which detail, as make ablation DETAIL=whiten_adv") for target in ("ablation", "plan")),
    *((target, (), "error: say which detail, as make ablation") for target in ("report", "judge", "test-detail")),
    ("ablation", ("DETAIL= ",), "error: say which detail"),
    *((target, ("DETAIL=",), "error: say which detail") for target in ("ablation", "plan", "report", "judge")),
    ("judge", ("MODEL=m",), "error: say which detail"),
    ("judge", ("DETAIL=whiten_adv",), "error: say which model is to judge, as make judge DETAIL=whiten_adv MODEL="),
    ("judge", ("DETAIL=whiten_adv", "MODEL="), "error: say which model is to judge"),
    ("inspect", (), "error: say which run, as make inspect RUN=whiten_adv/off/1"),
    ("inspect", ("RUN=",), "error: say which run"),
    ("inspect", ("EPISODE=0",), "error: say which run"),
    ("fetch", (), "error: say which scale, as make fetch SCALE=pythia-1b"),
    ("fetch", ("SCALE=",), "error: say which scale"),
    ("fetch", ("TO=folder",), "error: say which scale"),
    ("bench-commits", (), "error: say with what to compare, as make bench-commits OTHER=6762641"),
    ("bench-commits", ("OTHER=",), "error: say with what to compare"),
]
# What the program has to say: (target, words, pattern).
WRONG = [
    ("ablation", ("DETAIL=../../x",), "there is no detail '../../x'"),
    ("ablation", ("DETAIL=whiten_adv", "LOOKS=4 6"), r"add --until decided \(with make: UNTIL=decided\)"),
    ("ablation", ("DETAIL=whiten_adv", "UNTIL=now"), "--until 'now' is not known"),
    ("ablation", ("DETAIL=whiten_adv", "SLURM=time=1"), "--slurm needs --engine slurm"),
    ("ablation", ("DETAIL=whiten_adv", "ENGINE=slurm", "SLURM=time=0"), "is not a number of minutes"),
    ("ablation", ("DETAIL=$(touch ran)",), r"there is no detail '\$\(touch ran\)'"),
    ("plan", ("DETAIL=whiten_adv", "SEEDS=1 1"), "seeds 1 1 repeat"),
    ("plan", ("DETAIL=whiten_adv", "SEEDS=-1"), "seed -1 is out of range|expected at least one"),
    ("plan", ("DETAIL=whiten_adv", "SET=episodes"), "--set 'episodes' has no value"),
    ("plan", ("DETAIL=whiten_adv", "WITH=gamma"), "--with 'gamma' has no value"),
    ("plan", ("DETAIL=whiten_adv", "ARMS=of"), "whiten_adv has no variant 'of'"),
    ("plan", ("DETAIL=whiten_adv", "SCALE=smoek"), "there is no scale 'smoek'"),
    ("plan", ("DETAIL=" + "a" * 300,), r"there is no detail 'a{40}'\.\.\."),
    ("details", ("DETAIL=whiten_avd",), "there is no detail or check 'whiten_avd'"),
    ("judge", ("DETAIL=whiten_adv", "MODEL=m", "POSTS=0"), "0 is not a whole number above 0"),
    ("judge", ("DETAIL=whiten_adv", "MODEL=m", "URL=ftp://x"), "the judge's address is not of the form"),
    ("ui", ("PORT=70000",), "70000 is not a port"),
    ("fetch", ("SCALE=smoek",), "there is no scale 'smoek'"),
    ("gallery", ("EPISODES=0",), "0 is not a whole number above 0"),
    ("inspect", ("RUN=whiten_adv/off/1", "EPISODE=-1"), "is not the number of an episode|expected one argument"),
    ("calibration", ("SEEDS=one",), "seeds 'one' are not all integers"),
]
