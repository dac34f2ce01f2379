from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_exp.core.errors import DataError
from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.retrieval import encoder as encoder_module
from rag_exp.retrieval.encoders import Static, passage_text
from rag_exp.retrieval.static import StaticEncoder
from rag_exp.retrieval.words import words


@pytest.fixture
def encoder(tokenizer_folder: Path) -> StaticEncoder:
    return Static(dims=24, max_length=40).create(tokenizer_folder, 512, seed=1)


def by_hand(encoder: StaticEncoder, tokenizer: TextTokenizer, title: str, text: str) -> np.ndarray:
    """The module's formula, token by token."""
    table, weight = encoder.embedding_VD.detach().numpy(), encoder.passage_log_weight_V.detach().exp().numpy()

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / max(np.linalg.norm(vector), 1e-12)

    def bag(part: str) -> np.ndarray:
        ids = tokenizer.encode(["".join(f" {word}" for word in words(part))])[0]
        return unit(sum((weight[i] * table[i] for i in ids), np.zeros(encoder.dims)))

    a, b = encoder.log_mix.detach().exp().tolist()
    return unit(a * bag(title) + b * bag(text))


def test_passage_vectors_follow_the_formula(encoder: StaticEncoder, tokenizer_folder: Path, toy):
    encoder.prepare([encoder.features([passage_text(*p) for p in toy.pairs], "passage")])
    tokenizer = TextTokenizer.load(tokenizer_folder)
    pairs = [("Barake", "the capital, it is large"), ("", "no title"), ("only title", ""), ("", "")]
    found = encoder.encode([passage_text(*p) for p in pairs], "passage")
    for row, pair in zip(found, pairs, strict=True):
        np.testing.assert_allclose(row, by_hand(encoder, tokenizer, *pair), atol=1e-6)
    assert np.linalg.norm(found[-1]) == 0


def test_questions_are_scaled_passages_are_unit(encoder: StaticEncoder):
    assert np.linalg.norm(encoder.encode(["what is the area of x"], "question")) == pytest.approx(20.0, rel=1e-5)
    assert np.linalg.norm(encoder.encode(["t\nwhat is it"], "passage")) == pytest.approx(1.0, rel=1e-5)


def test_a_newline_in_a_question_is_no_title(encoder: StaticEncoder):
    one, two = encoder.encode(["capital\nof Chad", "capital of Chad"], "question")
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("role", ["question", "passage"])
def test_what_is_read_together_and_its_order_change_nothing(encoder: StaticEncoder, toy, role: str, monkeypatch):
    texts = [passage_text(*p) for p in toy.pairs] + ["", "x" * 400, "\n", "\nq"]
    whole = encoder.encode(texts, role)
    np.testing.assert_allclose(encoder.encode(texts[::-1], role)[::-1], whole, atol=1e-5)
    for size in (1, 7, 64):
        monkeypatch.setattr(encoder_module, "POOL_TEXTS", size)
        np.testing.assert_allclose(encoder.encode(texts, role), whole, atol=1e-5)


def test_max_length_counts_title_and_text_together(encoder: StaticEncoder):
    features = encoder.features([passage_text("a b c", "x " * 100), passage_text("y " * 100, "z")], "passage")
    ends = [*features["starts"].tolist()[1:], len(features["ids"])]
    lengths = [b - a for a, b in zip(features["starts"].tolist(), ends, strict=True)]
    assert lengths[0] + lengths[1] == 40
    assert lengths[2:] == [40, 0]
    assert encoder.tokens(features) == 80


def test_no_texts(encoder: StaticEncoder):
    assert encoder.encode([], "passage").shape == (0, 24)


def test_prepare_counts_documents_not_tokens(encoder: StaticEncoder):
    texts = ["q\n! ! !", "!\n?", "x\n?", "y\n:"]
    encoder.prepare([encoder.features(texts[:1], "passage"), encoder.features(texts[1:], "passage")])
    marks = [int(encoder.features([mark], "question")["ids"][-1]) for mark in ("!", "?", ":", ";")]
    expected = [math.log(1 + (4 - df + 0.5) / (df + 0.5)) for df in (2, 2, 1, 0)]
    assert encoder.passage_log_weight_V[marks].exp().tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(encoder.passage_log_weight_V, encoder.question_log_weight_V)


def test_names_match_before_any_training(tokenizer_folder: Path, toy):
    encoder = Static(dims=128).create(tokenizer_folder, 512, seed=0)
    encoder.prepare([encoder.features([passage_text(*p) for p in toy.pairs], "passage")])
    vectors = encoder.encode([passage_text(*p) for p in toy.pairs], "passage")
    asked, _ = toy.questions()
    best = (encoder.encode(asked, "question") @ vectors.T).argmax(1)
    right_name = best // 4 == np.arange(len(asked)) // 4
    assert right_name.mean() > 0.8  # by chance: one in sixty


def test_weights_are_the_seeds(tokenizer_folder: Path):
    one, same, other = (Static(dims=8).create(tokenizer_folder, 512, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.embedding_VD, same.embedding_VD)
    assert not torch.equal(one.embedding_VD, other.embedding_VD)


def test_save_and_load(encoder: StaticEncoder, tokenizer_folder: Path, tmp_path: Path):
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1)
    encoder.save(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"encoder.safetensors", "encoder.json"}
    again = Static(dims=24, max_length=40).load(tmp_path, tokenizer_folder)
    for texts, role in ((["a question"], "question"), (["a title\na text"], "passage")):
        np.testing.assert_array_equal(encoder.encode(texts, role), again.encode(texts, role))


def test_load_refuses_another_width_and_nothing(encoder: StaticEncoder, tokenizer_folder: Path, tmp_path: Path):
    encoder.save(tmp_path)
    with pytest.raises(DataError, match="25 dims"):
        Static(dims=25).load(tmp_path, tokenizer_folder)
    with pytest.raises(DataError, match="no readable static encoder"):
        Static(dims=24).load(tmp_path / "nowhere", tokenizer_folder)


def test_counts_are_the_networks(encoder: StaticEncoder):
    counts = Static(dims=24).parameter_counts(512)
    assert sum(counts.values()) == sum(p.numel() for p in encoder.parameters())
    assert counts["embedding"] == 512 * 24


def test_parameter_groups_hold_each_parameter_once(encoder: StaticEncoder):
    groups = encoder.parameter_groups(0.01)
    held = [p for g in groups for p in g["params"]]
    assert {id(p) for p in held} == {id(p) for p in encoder.parameters()}
    assert len(held) == len(set(map(id, held)))
    assert [g["lr"] for g in groups] == [0.01, 0.1]


def test_a_table_smaller_than_the_vocabulary_is_refused(tokenizer_folder: Path):
    with pytest.raises(DataError, match="only 10 rows"):
        Static().create(tokenizer_folder, 10, seed=0)


def test_gradients_are_right(tokenizer_folder: Path):
    encoder = Static(dims=6).create(tokenizer_folder, 512, seed=1).double()
    question, passage = (
        encoder.features(["capital of ba"], "question"),
        encoder.features(["ba\nthe capital"], "passage"),
    )

    def score() -> torch.Tensor:
        return (encoder(question, "question") * encoder(passage, "passage")).sum()

    score().backward()
    token = int(question["ids"][0])
    for parameter, place in (
        (encoder.embedding_VD, (token, 2)),
        (encoder.question_log_weight_V, (token,)),
        (encoder.log_mix, (0,)),
        (encoder.log_scale, ()),
    ):
        with torch.no_grad():
            parameter[place] += 1e-6
            up = score().item()
            parameter[place] -= 2e-6
            down = score().item()
            parameter[place] += 1e-6
        assert parameter.grad[place].item() == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7)


def test_features_go_to_where_the_weights_are(encoder: StaticEncoder):
    features = encoder.features(["t\nwhat is it"], "passage")
    made = encoder.to("meta")  # no accelerator here; a tensor left behind on the CPU fails just the same
    assert made.device.type == "meta"
    for role in ("question", "passage"):
        vectors = made(features, role)
        assert (vectors.device.type, vectors.shape) == ("meta", (1, encoder.dims))
    assert made.tokens(features) > 0
