"""The words of reports, each with its definition: verdicts, results of predictions, and how runs ended.

Every output takes its words from here, so that an arm has one word wherever it is told of.
"""

from collections.abc import Mapping

BETTER, WORSE, NO_DIFFERENCE, IDENTICAL, UNDECIDED = "better", "worse", "no difference", "identical", "undecided"
AS_PREDICTED, CONTRADICTED, NOT_RESOLVED = "as predicted", "contradicted", "not resolved"
RAN_AWAY, MISSING, KILLED, RUNNING = "ran away", "missing", "killed", "running"
MOVED = (BETTER, WORSE)

VERDICTS: Mapping[str, str] = {
    BETTER: "the interval excludes zero on the better side, and is not within the smallest effect of interest",
    WORSE: "the interval excludes zero on the worse side, and is not within the smallest effect of interest",
    NO_DIFFERENCE: "the interval lies within the smallest effect of interest, whether or not it excludes zero",
    IDENTICAL: "every final value of every shared seed agrees with the reference's to the bit",
    UNDECIDED: "none of these: the interval allows both zero and an effect that matters, or there is none because fewer "
    "than two seeds are paired, all differences are equal, or a sequential study has not reached its first look",
}
RESULTS: Mapping[str, str] = {
    AS_PREDICTED: "the interval excludes zero in the predicted direction; of “same”, it lies within the smallest effect "
    "of interest, or the arm is identical",
    CONTRADICTED: "the interval excludes zero, and not as predicted; or a change was predicted and the arm is identical",
    NOT_RESOLVED: "the interval allows both, or there is none to judge by: too few seeds, or all differences are equal",
}
ENDS: Mapping[str, str] = {
    "finished": "the run reached its last step",
    "diverged": "the run stopped at a value that is not finite; it counts where it could be evaluated",
    "failed": "the run ended with an error",
    KILLED: "the run was ended from outside",
    RUNNING: "the run has not ended",
    MISSING: "the run was planned and never started",
    RAN_AWAY: "the policy ended with a KL to the SFT policy above the study's cap; it counts where it could be evaluated",
}
DEFINITIONS: Mapping[str, str] = {**VERDICTS, **RESULTS, **ENDS}
