"""GPT-NeoX with less work: what the library's layers say, and their gradients, whoever asks for how many places."""

from copy import deepcopy

import pytest
import torch
from accelerate.utils.dataclasses import get_module_class_from_name
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, GPTNeoXConfig

from repro.models import forward_pass, modes, padding, position_ids
from repro.models.kv_cache import growing_cache, static_cache
from repro.models.neox import patch_layers
from repro.models.wrapping import Learner, Learners
from repro.ops.places import EVERY, at, last
from tests.tiny import PAD, policy, queries, scalar

VOCABULARY, WIDTH = 64, 8


def theirs(attention="sdpa", rotary=0.25, **options):
    """A network as the library makes and runs it; its weights are large, so that attention is far from uniform."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": rotary},
        **options,
    )
    network, generator = AutoModelForCausalLM.from_config(config, attn_implementation=attention), torch.Generator()
    generator.manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.normal_(std=0.2, generator=generator)
            if "norm" in name and name.endswith("weight"):
                weight.add_(1.0)
    return modes.set_dropout(network, 0.0).eval()


def both(**options):
    """The library's network, and ours with the same weights."""
    network = theirs(**options)
    return network, patch_layers(deepcopy(network))


def hidden(network, inputs, **more):
    return network.base_model(**inputs, use_cache=False, **more).last_hidden_state


def gradients(network, values, towards):
    network.zero_grad()
    (values * towards).sum().backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


def agree(ours, expected):
    """To 1e-5 of the largest number of each tensor, and of 1 where all are smaller."""
    assert ours.keys() == expected.keys()
    for name, right in expected.items():
        assert right.abs().max() > 0, name
        assert (ours[name] - right).abs().max() <= 1e-5 * max(1.0, right.abs().max()), name


def direction(values):
    return torch.randn(values.shape, generator=torch.Generator().manual_seed(1))


PADDED = forward_pass.model_inputs(queries(4, WIDTH), PAD)  # on the left, all but the first row
FULL = forward_pass.model_inputs(torch.randint(2, PAD, (3, WIDTH), generator=torch.Generator().manual_seed(2)), PAD)
PLACES = {
    "every": lambda rows: EVERY,
    "the last three": lambda rows: last(3),
    "each row's own": lambda rows: torch.tensor([[7, 5, 7], [4, 7, 6], [7, 2, 3], [6, 7, 5]])[:rows],
}


@pytest.fixture(
    scope="module",
    params=[(a, r, p) for a in ("sdpa", "eager") for r in (0.25, 1.0) for p in (True, False)],
    ids=lambda which: f"{which[0]}-{which[1]}-{'parallel' if which[2] else 'sequential'}",
)
def networks(request):
    attention, rotary, parallel = request.param
    return both(attention=attention, rotary=rotary, use_parallel_residual=parallel)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("how", ["padded", "padded, positions of each row's own", "full"])
def test_outputs_and_gradients_are_the_librarys(networks, how, places):
    inputs = FULL if how == "full" else PADDED
    if "own" in how:  # and distances too, since a rotation knows nothing else
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        inputs = inputs | {"position_ids": positions * torch.arange(1, 5)[:, None]}
    where = PLACES[places](len(inputs["input_ids"]))
    is_token = at(inputs["attention_mask"], where)[..., None]
    library, ours = networks
    expected, got = at(hidden(library, inputs), where), hidden(ours, inputs, places=where)
    assert got.shape == expected.shape
    agree({"hidden": got.detach() * is_token}, {"hidden": expected.detach() * is_token})
    towards = direction(expected) * is_token
    agree(gradients(ours, got, towards), gradients(library, expected, towards))


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_from_the_mask_are_the_hooks_too(side):
    library, ours = (position_ids.from_mask(network) for network in both())
    ids = queries(4, WIDTH) if side == "left" else padding.pad_right(queries(4, WIDTH), PAD)
    inputs = forward_pass.model_inputs(ids, PAD)
    mask = inputs["attention_mask"].bool()
    expected, got = hidden(library, inputs), hidden(ours, inputs, places=last(WIDTH))
    agree({"hidden": got[mask].detach()}, {"hidden": expected[mask].detach()})


def test_logits_of_the_last_places_are_the_librarys():
    library, ours = both()
    expected = library(**PADDED, use_cache=False, logits_to_keep=3).logits
    got = ours(**PADDED, use_cache=False, logits_to_keep=3, places=last(3)).logits
    agree({"logits": got.detach()}, {"logits": expected.detach()})
    agree(gradients(ours, got, direction(got)), gradients(library, expected, direction(got)))


def test_it_is_told_apart_from_a_network_whose_rotation_is_another():
    # What the comparisons above are worth: a quarter of the numbers turned is not all of them, nor none.
    quarter, whole = (hidden(theirs(rotary=rotary), FULL) for rotary in (0.25, 1.0))
    assert (quarter - whole).abs().max() > 0.1


def test_the_last_layer_runs_its_mlp_where_it_is_read_and_the_others_everywhere():
    _, ours = both()
    rows = [[], []]
    for layer, seen in zip(ours.gpt_neox.layers, rows, strict=True):
        layer.mlp.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output.shape[:2]))
    for where in (last(3), torch.full((4, 2), 7)):
        hidden(ours, PADDED, places=where)
    assert rows == [[(4, WIDTH), (4, WIDTH)], [(4, 3), (4, 2)]]


# ----------------------------------------------------------------------------- beside what else is done to a network


@pytest.mark.parametrize("places", [EVERY, last(3)], ids=["every", "the last three"])
def test_activations_are_computed_again_and_change_no_gradient(places):
    library, ours = both()
    calls, expected = [], at(hidden(library, PADDED), places)
    for layer in ours.train().gpt_neox.layers:
        layer.mlp.register_forward_pre_hook(lambda mlp, args: calls.append(mlp))
    with modes.recompute_activations([ours], "layers"):
        got = hidden(ours, PADDED, places=places)
        found = gradients(ours, got, direction(got))
    first, second = (layer.mlp for layer in ours.gpt_neox.layers)
    assert calls == [first, second, second, first], "forward, and again on the way back"
    agree(found, gradients(library, expected, direction(got)))
    calls.clear()
    hidden(ours, PADDED, places=places).sum().backward()
    assert calls == [first, second]


def test_adapters_see_what_the_library_shows_them():
    adapted = []
    for network in both():
        torch.manual_seed(0)
        network = get_peft_model(network, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"))
        for name, weight in network.named_parameters():
            if "lora_B" in name:  # zeros at the start, which would hide what is in front of them
                torch.nn.init.normal_(weight, std=0.2)
        adapted.append(network)
    library, ours = adapted
    assert forward_pass.places_kwargs(ours, last(3)) == {"places": last(3)}
    expected = library(**PADDED, use_cache=False, logits_to_keep=3).logits
    got = ours(**PADDED, use_cache=False, logits_to_keep=3, places=last(3)).logits
    agree({"logits": got.detach()}, {"logits": expected.detach()})
    found = gradients(ours, got, direction(got))
    assert found and all("lora" in name for name in found)
    agree(found, gradients(library, expected, direction(got)))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "cache",
    [
        lambda network: DynamicCache(config=network.config),
        lambda network: growing_cache(network.config, WIDTH),
        lambda _: static_cache(2, 16),
    ],
    ids=["library", "growing", "static"],
)
def test_token_by_token_a_cache_says_what_one_pass_does(cache, attention):
    library, ours = both(attention=attention)
    expected = library(**PADDED, use_cache=False).logits
    ids, mask = PADDED["input_ids"], PADDED["attention_mask"]
    past, got, begun = cache(ours), [], 5
    for start, end in [(0, begun), *((t, t + 1) for t in range(begun, WIDTH))]:
        step = {"input_ids": ids[:, start:end], "attention_mask": mask[:, :end], "past_key_values": past}
        got.append(ours(**step, use_cache=True, logits_to_keep=1).logits)
    agree({"logits": torch.cat(got, 1)}, {"logits": expected[:, begun - 1 :]})


def test_under_autocast_it_is_as_near_to_float32_as_the_library():
    (library, ours), found = both(), []
    exact = hidden(library, PADDED)[:, -3:]
    towards = direction(exact)
    right = [exact.detach(), *gradients(library, exact, towards).values()]
    for network, places in ((ours, {"places": last(3)}), (library, {})):
        with torch.autocast("cpu", torch.bfloat16):
            values = hidden(network, PADDED, **places)[:, -3:]
        off = [values.detach().float(), *gradients(network, values, towards).values()]
        assert values.dtype == torch.float32  # a normalisation's, as the library has it
        found.append(torch.stack([(x - y).norm() / y.norm() for x, y in zip(off, right, strict=True)]))
    assert found[0].max() < 0.1
    assert (found[0] < 1.5 * found[1] + 1e-3).all()


def test_with_dropout_the_same_draws_drop_the_same_numbers_as_in_the_library():
    library, ours = (modes.set_dropout(network, 0.3) for network in both())
    found = []
    for network in (library, ours, ours):
        if network is library or len(found) == 1:
            torch.manual_seed(0)
        found.append(hidden(network, PADDED).detach())
    agree({"hidden": found[1]}, {"hidden": found[0]})
    assert not torch.allclose(found[2], found[1], atol=0.1), "other draws drop others"


def test_with_dropout_the_places_alone_still_drop_something():
    _, ours = both()
    ours = modes.set_dropout(ours, 0.3)
    first, second = (hidden(ours, PADDED, places=last(1)).detach() for _ in range(2))
    assert not torch.allclose(first, second, atol=0.1)


def test_a_copy_reads_its_own_weights():
    library, ours = both()
    before, copy = hidden(ours, FULL).detach(), deepcopy(ours)
    with torch.no_grad():
        for network in (library, copy):
            for weight in network.parameters():
                weight.mul_(0.8)
    agree({"hidden": hidden(copy, FULL).detach()}, {"hidden": hidden(library, FULL).detach()})
    assert torch.equal(hidden(ours, FULL), before) and not torch.allclose(hidden(copy, FULL), before, atol=0.1)
    hidden(copy, FULL).sum().backward()
    assert all(weight.grad is None for weight in ours.parameters())


def test_doing_it_twice_is_doing_it_once():
    library, ours = both()
    agree({"hidden": hidden(patch_layers(ours), FULL).detach()}, {"hidden": hidden(library, FULL).detach()})


def test_names_of_weights_and_classes_stay_the_librarys():
    library, ours = both()
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in library.named_modules()]
    assert [type(module) for module in ours.modules()] == [type(module) for module in library.modules()]
    assert ours.state_dict().keys() == library.state_dict().keys()
    # What accelerate shards one by one, it looks for by this name.
    (name,) = ours._no_split_modules
    assert get_module_class_from_name(Learners(policy=ours), name) is type(library.gpt_neox.layers[0])


def test_places_reach_a_network_however_learners_are_wrapped():
    networks = Learners(policy=policy(), critic=scalar())
    policy_, critic = (Learner(networks, name) for name in ("policy", "critic"))
    where = torch.tensor([[7, 5], [7, 6], [7, 4], [7, 7]])
    torch.testing.assert_close(
        critic(**PADDED, places=where), scalar()(**PADDED).gather(1, where), atol=1e-5, rtol=1e-5
    )
    told = forward_pass.places_kwargs(policy_, last(2))
    assert told == {"places": last(2)}
    logits = policy_(**PADDED, **told, logits_to_keep=2, use_cache=False).logits
    torch.testing.assert_close(logits, policy()(**PADDED).logits[:, -2:], atol=1e-5, rtol=1e-5)


def test_a_network_of_another_kind_is_left_alone_and_told_nothing():
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    network = patch_layers(AutoModelForCausalLM.from_config(config))
    assert not any("forward" in vars(module) for module in network.modules())
    assert forward_pass.places_kwargs(network, last(2)) == {}
    assert not forward_pass.supports_branches(network)


@pytest.mark.parametrize(
    ("attention", "told", "branches"), [("sdpa", True, True), ("eager", True, False), ("flex_attention", False, False)]
)
def test_only_attention_with_a_mask_of_rows_is_asked_about_some_places(attention, told, branches):
    network = policy()
    network.config._attn_implementation = attention
    assert (forward_pass.places_kwargs(network, EVERY) == {"places": EVERY}) is told
    assert forward_pass.supports_branches(network.base_model) is branches
