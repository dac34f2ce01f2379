"""``--dry``: what it prints as a bound really bounds what the run then measures, for each kind of reader."""

import re

import pytest

from rag_exp import cli
from rag_exp.config import compose
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.store import Store
from rag_exp.dry import reading_bound, second_reading_bound, writing_bound
from rag_exp.models.flops import TokenCounts, forward_flops, training_flops
from rag_exp.steps import plan_run


def planned(*overrides):
    config = compose(overrides).run
    return config, plan_run(config, ContentDigests())


def test_what_a_decoder_only_reader_can_count():
    config, _ = planned("generator.context=100", "prompt.max_answer_tokens=10", "evaluation.max_new_tokens=4")
    assert reading_bound(config, 3, 1) == TokenCounts(3, 300, 30, 300, 0, 30_000, 0, 0)
    # A prompt of 90 tokens is read; 3 of the 4 tokens written are fed back behind it.
    assert writing_bound(config, 2, 1) == TokenCounts(0, 6, 8, 6, 0, 2 * (93**2 - 90**2), 0, 0)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_what_an_encoder_decoder_reader_can_count(family):
    config, _ = planned(f"generator={family}", "generator.context=100", "prompt.max_answer_tokens=10")
    assert reading_bound(config, 3, 1) == TokenCounts(3, 330, 30, 300, 30, 30_000, 300, 3_000)
    assert writing_bound(config, 1, 1) == TokenCounts(0, 9, 10, 0, 9, 0, 81, 900)


def test_fused_passages_are_encoded_each_and_answered_once():
    config, _ = planned("generator=t5", "objective=fid", "generator.context=100", "prompt.max_answer_tokens=10")
    assert reading_bound(config, 2, 3) == TokenCounts(6, 620, 20, 600, 20, 60_000, 200, 6_000)
    assert writing_bound(config, 1, 3) == TokenCounts(0, 9, 10, 0, 9, 0, 81, 2_700)


def test_attention_is_read_once_more_without_the_vocabulary():
    words = ["generator=t5", "generator.context=100", "prompt.max_answer_tokens=10", "retriever=query"]
    config, _ = planned("objective=adist", *words)
    assert second_reading_bound(config, 2, 3) == TokenCounts(6, 620, 0, 600, 20, 60_000, 200, 6_000)
    assert second_reading_bound(config, 2, 0) == TokenCounts()


def test_what_is_not_written_costs_nothing():
    config, _ = planned("evaluation.decode=none")
    assert writing_bound(config, 5, 1) == TokenCounts()


@pytest.mark.parametrize("generator", ["ladder", "t5"])
def test_the_bounds_bound_what_a_run_measures(place, capsys, generator):
    # A context that barely holds the texts, so that the bound is near: one that left a term out would be passed.
    words = ["debug=tiny", f"generator={generator}", "generator.context=96", "prompt.max_answer_tokens=24"]
    assert cli.main(["run", "--dry", *words]) == 0
    said = capsys.readouterr().out
    assert cli.main(["run", *words]) == 0
    capsys.readouterr()
    config, steps = planned(*words)
    store = Store(config.paths.store)
    stages = {"reader_warmup": 6 * 8, "checkpoint": 4 * 4 * 3}
    for role, rows in stages.items():
        stats, bound = store.info(steps.roles[role]).stats, reading_bound(config, rows, 1)
        assert stats["rows"] == rows
        assert bound.tokens / 3 < stats["tokens"] <= bound.tokens
        assert stats["target_tokens"] <= bound.target_tokens
        most = training_flops(bound, config.generator.sizes())
        assert most / 5 < stats["flops"] <= most
        (line,) = (line for line in said.splitlines() if line.strip().startswith(role) and "<=" in line)
        assert f"<= {bound.tokens:,} tokens, <= {most:.3g} FLOPs" in line
    sizes = config.generator.sizes()
    read, written = (forward_flops(f(config, 24, 3), sizes) for f in (reading_bound, writing_bound))
    asked = store.info(steps.last).stats
    assert read / 5 < asked["flops"] <= config.evaluation.max_answers * read + written
    (line,) = re.findall(r"evaluation +24 questions x 3 prompts: (.*)", said)
    assert f"<= {read:.3g} FLOPs" in line
    assert f"<= {written:.3g} to write" in line
    assert cli.main(["run", "--dry", *words]) == 0
    again = capsys.readouterr().out
    assert "to be built" not in again
    assert f"evaluation    {asked['tokens']:,} tokens, {asked['flops']:.3g} FLOPs" in again


def test_the_tiny_preset_fits_any_corpus(place):
    (place / "p.jsonl").write_text('{"text": "x"}\n' * 3)
    files = ["corpus.files=p.jsonl", "questions.files.train=p.jsonl", "questions.files.dev=p.jsonl"]
    config, _ = planned("debug=tiny", "corpus=jsonl", "questions=jsonl", *files)
    assert (config.corpus.kind, config.training.steps) == ("jsonl", 4)
    config, _ = planned("debug=tiny", "questions=closed_world_two_hop")
    assert (config.questions.passages, config.questions.hops) == (1200, 2)
