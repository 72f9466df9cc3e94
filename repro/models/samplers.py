"""The samplers by their names in `Scale.sampler`."""

from importlib.util import find_spec

from repro.errors import UserError
from repro.models import generate


def require(name: str) -> None:
    """UserError where the sampler of this name needs a library that is not installed."""
    if name == "vllm" and not find_spec("vllm"):
        raise UserError("sampler=vllm needs vLLM: pip install '.[vllm]', or set sampler=static")


def sampler_named(name: str) -> generate.Sampler:
    """The sampler of this name; vLLM's module is imported only if it is chosen."""
    if name == "vllm":
        from repro.models.vllm_sampler import Vllm

        return Vllm()
    return {"eager": generate.eager, "static": generate.static}[name]
