"""The ladder: sizes by formula equal the built models; weights are a function of the seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.models.generators import GENERATORS, Ladder
from rag_exp.models.ladder import WIDTHS

FAMILIES = ["llama", "t5", "bart"]


def group_of(name: str) -> str:
    """The group of a parameter of transformers' modules, told from the module tree and not by the ladder's code."""
    parts = name.split(".")
    if "embed_positions" in parts:
        return "position"
    if "norm" in name:
        return "norm"
    if "EncDecAttention" in parts or "encoder_attn" in parts:
        return "cross_attention"
    if "self_attn" in parts or "SelfAttention" in parts:
        return "attention"
    if {"mlp", "fc1", "fc2", "DenseReluDense"} & set(parts):
        return "mlp"
    return "head" if parts[0] == "lm_head" else "embedding"


@pytest.mark.parametrize(("family", "tied"), [*((f, True) for f in FAMILIES), ("llama", False)])
@pytest.mark.parametrize("size", list(WIDTHS))
def test_parameter_counts_equal_the_built_model(family, size, tied, vocabulary):
    options = Ladder(family=family, size=size, vocab_size=512, context=96, tie_embeddings=tied)
    with torch.device("meta"):
        model = options._model(vocabulary)
    built: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        built[group_of(name)] = built.get(group_of(name), 0) + parameter.numel()
    counts = options.parameter_counts()
    assert {k: v for k, v in counts.items() if v} == built
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert options.non_embedding() == sum(counts.values()) - built["embedding"] - built.get("position", 0) - built.get(
        "head", 0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_flop_bodies_equal_the_built_halves(family, vocabulary):
    options = Ladder(family=family, size="s3", vocab_size=512, context=96)
    with torch.device("meta"):
        named = dict(options._model(vocabulary).named_parameters())
    body = {n: p.numel() for n, p in named.items() if group_of(n) not in ("embedding", "position")}
    keys_values = sum(v for n, v in body.items() if group_of(n) == "cross_attention" and n.split(".")[-2] in
                      ("k", "v", "k_proj", "v_proj"))  # fmt: skip
    encoder = sum(v for n, v in body.items() if "encoder." in n and "decoder." not in n)
    sizes = options.sizes()
    assert sizes.encoder_body == encoder + keys_values
    assert sizes.body == sum(body.values()) - encoder - keys_values
    assert (sizes.width, sizes.vocab) == (128, 512)


def test_the_dial_spans_three_decades():
    sizes = [Ladder(size=s).non_embedding() for s in WIDTHS]
    assert sizes == [6_736, 23_712, 55_536, 100_672, 221_664, 584_576, 1_771_200, 4_746_496, 15_932_544]
    documented = sys.modules[Ladder.__module__].__doc__
    assert all(f"{n:,}" in documented for n in sizes)
    for family in ("t5", "bart"):
        others = [Ladder(family=family, size=s).non_embedding() for s in WIDTHS]
        assert all(1 < other / llama < 2 for other, llama in zip(others, sizes, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_a_function_of_the_seed_alone(family, vocabulary):
    options = Ladder(family=family, size="s0", vocab_size=320, context=32)
    state = torch.random.get_rng_state()
    first = options.create(vocabulary, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's randomness is touched
    torch.rand(5)
    again, other = options.create(vocabulary, seed=3), options.create(vocabulary, seed=4)
    same = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_weights_come_back(family, vocabulary, tmp_path):
    options = Ladder(family=family, size="s0", vocab_size=320, context=32)
    made = options.create(vocabulary, seed=1)
    made.save(tmp_path)
    loaded = options.load(tmp_path, vocabulary)
    for (name, a), (_, b) in zip(made.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(DataError, match="not the weights of this generator"):
        Ladder(family=family, size="s1", vocab_size=320, context=32).load(tmp_path, vocabulary)


def test_load_without_weights_and_with_broken_ones(vocabulary, tmp_path):
    options = Ladder(size="s0", vocab_size=320, context=32)
    with pytest.raises(DataError, match="no generator weights there"):
        options.load(tmp_path, vocabulary)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(DataError, match="not the weights of this generator"):
        options.load(tmp_path, vocabulary)


def test_wrong_options():
    with pytest.raises(ValidationError, match="t5 always ties"):
        Ladder(family="t5", tie_embeddings=False)
    with pytest.raises(ValidationError):
        Ladder(size="s7")


def test_a_vocabulary_is_needed_and_must_fit(vocabulary):
    with pytest.raises(ConfigError, match="needs the vocabulary trained on the corpus"):
        Ladder(size="s0").create(None, 0)
    with pytest.raises(DataError, match=r"has 320 pieces, generator.vocab_size is 300"):
        Ladder(size="s0", vocab_size=300).create(vocabulary, 0)


def test_registry():
    assert set(GENERATORS.kinds) == {"hosted", "ladder", "pretrained"}


def test_sizes_are_known_without_torch():
    """In a fresh interpreter, importing every kind of generator and asking sizes loads nothing heavy."""
    code = (
        "import sys; from rag_exp.models.generators import Ladder; from rag_exp.models import objectives, prompt;"
        "Ladder(family='bart').parameter_counts(); Ladder().sizes();"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
