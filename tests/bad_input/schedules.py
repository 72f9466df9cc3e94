"""Seeds, looks, until and a ceiling, on the command line."""

from tests.bad_input.case import Case

NOT_WHOLE = ("one", "1.5", "nan", "inf", "1e3", "1,2", "0x1", "٣", "<digits>", "<esc>", "+1", "1_0")

CASES = [
    *(
        Case(f"{verb} --seeds '{word}'", "seeds '.*' are not all integers; give some, as 1 2 3")
        for verb in ("plan whiten_adv", "atlas", "calibrate")
        for word in NOT_WHOLE
    ),
    *(
        Case(f"{verb} --seeds 1 2 1", "seeds 1 2 1 repeat; give each once")
        for verb in ("plan whiten_adv", "run whiten_adv", "atlas", "calibrate")
    ),
    *(
        Case(f"{verb} --seeds {seed}", f"seed {seed} is out of range; give whole numbers from 0 to 4294967295")
        for verb in ("plan whiten_adv", "atlas", "calibrate")
        for seed in ("-1", "4294967296", "99999999999999999")
    ),
    Case("plan whiten_adv --seeds 1 two 3", "seeds '1 two 3' are not all integers"),
    Case("plan whiten_adv --seeds 01 1", "seeds 1 1 repeat"),
    Case("plan whiten_adv --looks 4 6", "--looks is the schedule of a study that grows; add --until decided"),
    Case("run whiten_adv --looks 4", "--looks is the schedule of a study that grows; add --until decided"),
    Case("plan whiten_adv --until never", "--until 'never' is not known; give --until decided"),
    Case("plan whiten_adv --until <long>", r"--until 'a{40}'\.\.\. is not known"),
    Case("plan whiten_adv --until '<esc>'", r"--until '\\x1b\[31m' is not known"),
    Case("plan whiten_adv --until DECIDED", "--until 'DECIDED' is not known"),
    Case("plan whiten_adv --until 8", "--until '8' is not known; give --until decided, or --seeds"),
    Case("plan whiten_adv --until decided --seeds 1 2 3", "takes seeds 1, 2, ... as its looks need them"),
    *(
        Case(
            f"plan whiten_adv --until decided --looks '{word}'",
            "looks '.*' are not all integers; give numbers of seeds",
        )
        for word in NOT_WHOLE
    ),
    *(
        Case(
            f"plan whiten_adv --until decided --looks {looks}", "must be growing numbers of seeds, the first at least 3"
        )
        for looks in ("2", "0", "-4", "1 2 3", "4 4", "6 4", "4 8 6", "3 3 3")
    ),
    *(
        Case(f"plan whiten_adv --until decided --looks {looks}", "end above 1000 seeds; give numbers of seeds")
        for looks in ("4 1001", "99999999999", "4 999999999")
    ),
    *(
        Case(
            f"{verb} reward_source --ceiling",
            "the study of reward_source has its ceiling as the arm gold; leave --ceiling",
        )
        for verb in ("plan", "run")
    ),
    Case(
        "plan whiten_adv --ceiling --with reward_source=gold", "all arms have reward_source=gold, which is the ceiling"
    ),
    Case(
        "plan whiten_adv --ceiling --scale pythia-1b",
        "reward_source=gold needs the facts and annotators of the embedded",
    ),
    Case(
        "run whiten_adv --ceiling --scale pythia-1b",
        "reward_source=gold needs the facts and annotators of the embedded",
    ),
    Case("plan --config x.json --ceiling", "--config says the whole study; leave --ceiling out"),
]
