"""Files of ablations/, and names that would lead to other files."""

from tests.bad_input.case import FOLDER, Case, Link

FIELDS = {  # -> what a value of it must be
    "detail": "text",
    "question": "text",
    "scale": "text",
    "set": "a table",
    "with": "a table",
    "seeds": "a list",
    "looks": "a list",
    "arms": "a list",
    "primary": "text",
    "higher_is_better": "true or false",
    "ceiling": "true or false",
    "smallest_effect": "a number",
}
VALUES = {
    "text": '"x"',
    "a table": "{x = 1}",
    "a list": "[1]",
    "true or false": "true",
    "a number": "0.5",
    "a date": "2026-01-01",
}
HEAD = 'detail = "whiten_adv"\n'


def of(content: str | bytes, says: str, name: str = "mine") -> Case:
    """A case of a study's file."""
    return Case(f"plan {name}", says, {f"ablations/{name}.toml": content})


def line(text: str, says: str) -> Case:
    """A case of one line of a study's file that names its detail."""
    return of(f"{HEAD}{text}\n", says)


CASES = [
    *(
        of(
            f"{field} = {value}\n" + HEAD * (field != "detail"),
            f"ablations/mine.toml: {field} = .* has the wrong type; it must be {wanted}",
        )
        for field, wanted in FIELDS.items()
        for kind, value in VALUES.items()
        if kind != wanted
    ),
    # What no study is
    of("", "mine.toml: the field detail is missing; say which detail it varies"),
    of("# nothing\n", "the field detail is missing"),
    of('question = "Why?"\n', "the field detail is missing"),
    *(
        of(content, "ablations/mine.toml is not valid TOML: ")
        for content in (
            "detail",
            "detail = ",
            "detail = whiten_adv",
            f"{HEAD}seeds = 1 2",
            f'{HEAD}question = "no end',
            f"{HEAD}{HEAD}",
            "[detail",
            "<html></html>",
            '{"detail": "whiten_adv"}',
            "detail: whiten_adv",
            "[" * 5_000,
            f"{HEAD}seeds = " + "[" * 5_000 + "]" * 5_000,
            b"\xff\xfed\x00e\x00t\x00",
            b"\xef\xbb\xbf" + HEAD.encode(),
            b'detail = "\xff"',
            b"\x00" * 100,
            b"\x1f\x8b\x08\x00garbage",
            f'{HEAD}question = "\x1b[31m"',
            f"{HEAD}smallest_effect = " + "9" * 5_000,
            'detail = "\\ud800"',
        )
    ),
    Case("plan mine", r"ablations/mine.toml cannot be read \(Is a directory\)", {"ablations/mine.toml": FOLDER}),
    Case("plan mine", r"ablations/mine.toml cannot be read \(No such file", {"ablations/mine.toml": Link("nowhere")}),
    Case("plan mine", "ablations/mine.toml cannot be read", {"ablations/mine.toml": Link("mine.toml")}),
    # Fields that there are not
    line('quesiton = "Why?"', "there is no field 'quesiton'; did you mean 'question'"),
    line(f"{'a' * 300} = 1", r"there is no field 'a{40}'\.\.\."),
    line('"\\u001b" = 1', r"there is no field '\\x1b'"),
    line('"[/b]" = 1', r"there is no field '\[/b\]'"),
    line("episodes = 64", "there is no field 'episodes'"),
    line("[detail_of]\nx = 1", "there is no field 'detail_of'; did you mean 'detail'"),
    # Values
    of('detail = ""', "there is no detail ''"),
    of('detail = "whiten_avd"', "there is no detail 'whiten_avd'; did you mean 'whiten_adv'"),
    of('detail = "[/b]"', r"there is no detail '\[/b\]'"),
    of('detail = "\\u001b[31m"', r"there is no detail '\\x1b\[31m'"),
    of('detail = "\\u0000"', r"there is no detail '\\x00'"),
    of('detail = "calibration"', "calibration is a check, not a choice"),
    of(f'detail = "{"a" * 300}"', r"there is no detail 'a{40}'\.\.\."),
    line('scale = ""', "there is no scale ''"),
    line('scale = "smoek"', "there is no scale 'smoek'; did you mean 'smoke'"),
    line('scale = "local"', "scale local needs tokenizer"),
    line("seeds = []", "there are no seeds; give at least one, better three"),
    line('seeds = ["one"]', "seeds 'one' are not all integers"),
    line("seeds = [1.5]", "seeds '1.5' are not all integers"),
    line("seeds = [true]", "seeds 'True' are not all integers"),
    line("seeds = [nan]", "seeds 'nan' are not all integers"),
    line("seeds = [[1]]", r"seeds '\[1\]' are not all integers"),
    line("seeds = [1, 1]", "seeds 1 1 repeat"),
    line("seeds = [-1]", "seed -1 is out of range"),
    line("seeds = [4294967296]", "seed 4294967296 is out of range"),
    line('scale = "smoke"\nseeds = [1.5]', "seeds '1.5' are not all integers"),
    line("looks = []", "looks  must be growing numbers of seeds"),
    line('looks = ["four"]', "looks 'four' are not all integers"),
    line("looks = [4.0]", "looks '4.0' are not all integers"),
    line("looks = [2, 4]", "looks 2 4 must be growing numbers of seeds"),
    line("looks = [6, 4]", "looks 6 4 must be growing numbers of seeds"),
    line("looks = [4, 100000]", "looks 4 100000 end above 1000 seeds"),
    line('arms = ["of"]', "whiten_adv has no variant 'of'; did you mean 'off'"),
    line("arms = [1]", "whiten_adv has no variant '1'"),
    line("arms = [[]]", r"whiten_adv has no variant '\[\]'"),
    line('arms = [""]', "whiten_adv has no variant ''"),
    line('arms = ["[/b]"]', r"whiten_adv has no variant '\[/b\]'"),
    line('primary = ""', "has no metric '' to be primary"),
    line('primary = "test/winrate"', "has no metric 'test/winrate' to be primary; did you mean 'test/win_rate'"),
    line(f'primary = "{"a" * 300}"', r"has no metric 'a{40}'\.\.\. to be primary"),
    line('primary = "[/b]"', r"has no metric '\[/b\]' to be primary"),
    line("smallest_effect = 0", "smallest_effect = 0.0 must be above 0, and finite"),
    line("smallest_effect = -0.05", "smallest_effect = -0.05 must be above 0, and finite"),
    line("smallest_effect = nan", "smallest_effect = nan must be above 0, and finite"),
    line("smallest_effect = inf", "smallest_effect = inf must be above 0, and finite"),
    line("smallest_effect = 1" + "0" * 400, "smallest_effect = inf must be above 0, and finite"),
    line("set = {episode = 1}", "a scale has no field 'episode'; did you mean 'episodes'"),
    line("set = {episodes = 0}", "episodes=0 must be at least 1"),
    line("set = {episodes = 1.5}", "episodes='1.5' is not an integer"),
    line("set = {episodes = [64]}", r"episodes='\[64\]' is not an integer"),
    line("set = {episodes = {a = 1}}", "episodes=.* is not an integer"),
    line("set = {episodes = nan}", "episodes='nan' is not an integer"),
    line("set = {kl_cap = nan}", "kl_cap=nan must be above 0, and finite"),
    line("set = {kl_cap = true}", "kl_cap='True' is not a number"),
    line('set = {tokenizer = ""}', "needs tokenizer"),
    line('set = {tokenizer = "a\\u0000b"}', r"tokenizer 'a\\x00b' does not exist"),
    line('set = {model = "/"}', "model '/' holds"),
    line("set = {seeds = [1]}", r"seeds='\[1\]' is not a list of integers|seeds are no budget"),
    line("with = {gama = 1}", "there is no detail 'gama'; did you mean 'gamma'"),
    line("with = {gamma = 2}", "gamma has no variant '2'"),
    line("with = {gamma = [1]}", r"gamma has no variant '\[1\]'"),
    line("with = {gamma = true}", "gamma has no variant 'True'"),
    line('with = {whiten_adv = "off"}', "whiten_adv is what the study varies"),
    line("with = {calibration = 1}", "calibration is a check, not a choice"),
    of('detail = "kl_coef"\nwith = {kl_placement = "none"}\n', "make no sense together"),
    # The same file asked for by other verbs
    *(
        Case(f"{verb} mine", "there is no field 'x'", {"ablations/mine.toml": "x = 1"})
        for verb in ("run", "report", "atlas")
    ),
    # Names that would lead out of ablations/
    *(
        Case(f"{verb} ../mine", "there is no detail '../mine'|no study|no MLflow store", {"mine.toml": HEAD})
        for verb in ("plan", "run", "atlas")
    ),
    Case("plan ablations/mine", "there is no detail 'ablations/mine'", {"ablations/mine.toml": HEAD}),
    Case("plan sub/mine", "there is no detail 'sub/mine'", {"ablations/sub/mine.toml": HEAD}),
    Case("plan ./mine", "there is no detail './mine'", {"ablations/mine.toml": HEAD}),
    Case("plan mine.toml", "there is no detail 'mine.toml'", {"ablations/mine.toml": HEAD}),
]
