"""The samplers by their names in `Scale.sampler`."""

from repro.models import generate


def sampler_named(name: str) -> generate.Sampler:
    """The sampler of this name; vLLM's module is imported only if it is chosen."""
    if name == "vllm":
        from repro.models.vllm_sampler import Vllm

        return Vllm()
    return {"eager": generate.eager, "static": generate.static}[name]
