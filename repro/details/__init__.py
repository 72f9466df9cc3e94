"""Every implementation detail that can be toggled, in the paper's order: a file for each of its parts.

"N+" is Huang et al. 2024, arXiv 2403.17031, by detail number; "blog" its forerunner, *The N Implementation Details of
RLHF with PPO* (2023). The reference is the paper's, except where a comment says so. To add a detail, declare it in the file
of its part and read it where it acts, as `pick(d.WHITEN_ADV)` with `from repro import details as d`.
"""

# Stars, so that a declaration is all that a new detail needs here.
from repro.details.advantages import *  # noqa: F403
from repro.details.clashes import *  # noqa: F403
from repro.details.control import *  # noqa: F403
from repro.details.data import *  # noqa: F403
from repro.details.feedback import *  # noqa: F403
from repro.details.general import *  # noqa: F403
from repro.details.objective import *  # noqa: F403
from repro.details.optimisation import *  # noqa: F403
from repro.details.ppo import *  # noqa: F403
from repro.details.registry import *  # noqa: F403
from repro.details.requirements import *  # noqa: F403
from repro.details.reward_and_kl import *  # noqa: F403
from repro.details.reward_model import *  # noqa: F403
from repro.details.sft import *  # noqa: F403
