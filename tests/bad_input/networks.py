"""Tokenizers and folders of networks: (files, what is said)."""

import json

from tests.bad_input.case import FOLDER, Link

CONFIG = {
    "model_type": "gpt_neox",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 4,
    "max_position_embeddings": 512,
}


def words(*vocabulary: str, unknown: str = "?", **parts: object) -> str:
    """A tokenizer.json of whole words."""
    model = {"type": "WordLevel", "vocab": {word: place for place, word in enumerate(vocabulary)}, "unk_token": unknown}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model} | parts)


def tensors(entries: dict, size: int, length: int = -1) -> bytes:
    """A file of safetensors with this header and so many bytes after it; `length` is what its first bytes say."""
    header = json.dumps(entries).encode()
    return (len(header) if length < 0 else length).to_bytes(8, "little") + header + bytes(size)


def tensor(begin: object, end: object, shape: object = (4,), kind: object = "F32") -> dict:
    return {"w": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}


WHOLE = tensors(tensor(0, 16), 16)
TOKENIZERS = [
    (content, says)
    for content, says in (
        ("", r"not a tokenizer \("),
        ("garbage", r"not a tokenizer \("),
        ("{}", r"not a tokenizer \("),
        ("[]", r"not a tokenizer \("),
        ("null", r"not a tokenizer \("),
        ("3", r"not a tokenizer \("),
        ('"text"', r"not a tokenizer \("),
        ('{"model": null}', r"not a tokenizer \("),
        ('{"version": "1.0", "model": {"type": "Nothing"}}', r"not a tokenizer \("),
        ('{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}', r"not a tokenizer \("),
        ('{"version": "9.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}', r"not a tokenizer \(|end-of-text"),
        ("[" * 100_000, r"not a tokenizer \("),
        ('{"a":' * 100_000, r"not a tokenizer \("),
        (b"\xff\xfe{\x00}\x00", r"not a tokenizer \("),
        (b"\x00" * 100, r"not a tokenizer \("),
        (b"\xef\xbb\xbf{}", r"not a tokenizer \("),
        (words("?", "a"), "the tokenizer has no end-of-text token; one of <.endoftext.>, </s>"),
        (words(), "the tokenizer has no end-of-text token|not a tokenizer"),
        (words("</s>"), r"not a tokenizer \(WordLevel error: Missing \[UNK\] token|not a tokenizer"),
        (words("?", "</s>", normalizer={"type": "Nothing"}), r"not a tokenizer \("),
        (words("?", "</s>", pre_tokenizer=3), r"not a tokenizer \("),
        (words("?", "</s>", added_tokens=[{"id": "one"}]), r"not a tokenizer \("),
        (words("?", "</s>", added_tokens=3), r"not a tokenizer \("),
        (words("?", "</s>")[:-20], r"not a tokenizer \("),
    )
]
# Folders: name of the model's folder is "net".
NETWORKS = [
    *(
        ({"net/config.json": content, "net/model.safetensors": WHOLE}, f"config.json: {says}")
        for content, says in (
            ("", r"cannot be read \(Expecting value at column 1\); a network's configuration is needed"),
            ("garbage", r"cannot be read \(Expecting value at column 1\)"),
            ("{", r"cannot be read \(Expecting property name"),
            ("[]", "it is no JSON object; a network's configuration is needed"),
            ("null", "it is no JSON object"),
            ("3", "it is no JSON object"),
            ('"text"', "it is no JSON object"),
            ('{"hidden_size": NaN}', r"cannot be read \(NaN is no number of JSON\)"),
            ('{"hidden_size": 1e999}', r"cannot be read \(1e999 is no number of JSON\)"),
            ("[" * 100_000, r"cannot be read \(it is nested too deeply\)"),
            ('{"a":' * 100_000, r"cannot be read \(it is nested too deeply\)"),
            ('{"a": ' + "9" * 5_000 + "}", r"cannot be read \(Exceeds the limit"),
            (b"\xff\xfe{\x00}\x00", r"cannot be read \(it is binary, or UTF-16; UTF-8 is needed\)"),
            (b"\x00" * 100, r"cannot be read \(it is binary"),
            (b'{"a": "\xff"}', r"cannot be read \('utf-8' codec"),
            (FOLDER, r"cannot be read \(Is a directory\)"),
        )
    ),
    ({"net/config.json": Link("nowhere")}, "holds no (network|weights)|cannot be read"),
    ({"net/config.json": json.dumps(CONFIG)}, r"holds no weights; \*.safetensors or pytorch_model\*.bin is needed"),
    ({"net/config.json": json.dumps(CONFIG), "net/weights.pt": b"x"}, "holds no weights"),
    ({"net/model.safetensors": WHOLE}, "holds no network; a folder with config.json and weights is needed"),
    ({"net/tokenizer.json": "{}"}, "holds no network"),
    ({"net/sub/config.json": json.dumps(CONFIG)}, "holds no network"),
    *(
        (
            {"net/config.json": json.dumps(CONFIG), "net/model.safetensors": content},
            rf"model.safetensors: the weights are cut or damaged \({says}",
        )
        for content, says in (
            (b"", "of 0 bytes, which do not hold its header"),
            (b"\x08", "of 1 bytes, which do not hold its header"),
            (WHOLE[:-1], "of [0-9]+ bytes; its header tells of"),
            (WHOLE[:40], "of 40 bytes, which do not hold its header"),
            (WHOLE + b"\x00", "of [0-9]+ bytes; its header tells of"),
            (b"garbage that is no safetensors at all", "of 37 bytes, which do not hold its header"),
            (b"\x00" * 64, "Expecting value at column 1"),
            (b"\xff" * 64, "of 64 bytes, which do not hold its header"),
            (tensors({}, 0, length=2**62), "of 10 bytes, which do not hold its header"),
            (tensors({}, 0, length=1), "Expecting property name"),
            ((5).to_bytes(8, "little") + b"[1,2]", "its header is no JSON object"),
            ((4).to_bytes(8, "little") + b"null", "its header is no JSON object"),
            ((3).to_bytes(8, "little") + b"\xff\xff\xff", "'utf-8' codec"),
            ((50_000).to_bytes(8, "little") + b"[" * 50_000, "it is nested too deeply"),
            (tensors({"w": 3}, 0), "its header does not say where 'w' is"),
            (tensors({"w": {}}, 0), "its header does not say where 'w' is"),
            (tensors({"w": {"data_offsets": 3}}, 0), "its header does not say where 'w' is"),
            (tensors({"w": {"data_offsets": [0]}}, 0), "its header does not say where 'w' is"),
            (tensors(tensor(0, "16"), 16), "its header does not say where 'w' is"),
            (tensors(tensor(0, True), 1), "its header does not say where 'w' is"),
            (tensors(tensor(-16, 16), 16), "its header does not say where 'w' is"),
            (tensors(tensor(0, 10**15), 16), "of [0-9]+ bytes; its header tells of"),
            (FOLDER, "Is a directory|of [0-9]+ bytes"),
        )
    ),
]
# Configurations that are JSON and no network's, each with weights that are whole.
CONFIGURATIONS = [
    *(
        (content, r"no configuration of a network \(|has no vocab_size|t5 is no causal language model")
        for content in (
            {},
            {"model_type": "nothing"},
            {"model_type": 3},
            {"model_type": None},
            {"model_type": []},
            {"model_type": "t5"},
            CONFIG | {"vocab_size": "many"},
            CONFIG | {"vocab_size": None},
            CONFIG | {"vocab_size": [4]},
        )
    ),
    (CONFIG | {"vocab_size": 4}, "the base model has 4 of them; give a model and a tokenizer that belong together"),
    (CONFIG | {"vocab_size": -1}, "no configuration of a network|the base model has -1 of them"),
    (CONFIG | {"vocab_size": 0}, "no configuration of a network|the base model has 0 of them"),
]
