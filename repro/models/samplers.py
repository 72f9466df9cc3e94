"""Samplers by the names that `Scale.sampler` has for them."""

from repro.models import generate


def sampler_named(name: str) -> generate.Sampler:
    """The sampler of this name; vLLM's is imported where it is asked for."""
    if name == "vllm":
        from repro.models.vllm_sampler import Vllm

        return Vllm()
    return {"eager": generate.eager, "static": generate.static}[name]
