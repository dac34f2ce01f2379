"""What comes back from an endpoint, against the same saved model read here."""

from __future__ import annotations

import pytest
import torch

from rag_exp.core.errors import EndpointError
from rag_exp.models.hosted import Hosted
from rag_exp.models.packing import Packer
from rag_exp.models.pretrained import Pretrained
from rag_exp.models.prompt import PromptOptions

PROMPT = PromptOptions(
    template="Answer the question with a few words.\n\n{passages}Question: {question}\n",
    passage="Passage: {title}. {text}\n\n",
    answer_prefix="Answer: ",
    max_answer_tokens=16,
)
QUESTIONS = ["Which river is Town 3 on?", "Which river is Galdhøpiggen on? 山"]
PASSAGES = [
    [("Town 3", "Town 3 lies on the river R21"), ("Town 4", "old and é old")],
    [("山", "Town 山 lies on the river R4"), ("Town 5", "R5")],
]
ANSWERS = ["R21", "Galdhøpiggen"]


def packed(generator, context=400):
    packer = Packer(generator.tokenizer, PROMPT, context, False)
    read = [
        list(zip(packer.tokens([t for t, _ in row], "title"), packer.tokens([x for _, x in row], "text"), strict=True))
        for row in PASSAGES
    ]
    return packer.pack(packer.tokens(QUESTIONS, "question"), read, packer.tokens(ANSWERS, "answer"))


def local_logp(saved):
    """log p of each answer's tokens by the local reader, end token last."""
    reader = Pretrained(name=str(saved)).create(None, 0).eval()
    batch = packed(reader)
    with torch.no_grad():
        logp_NT = reader.token_logp(batch).double()
    return [row[: int((t != -100).sum())].tolist() for row, t in zip(logp_NT, batch.targets_NT, strict=True)]


@pytest.fixture
def hosted(served, tmp_path):
    made = []

    def make(**options):
        found = Hosted(**{"base_url": served.url, "model": "tiny", "cache": tmp_path / "replies"} | options)
        made.append(found.create(None, 0))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


@pytest.mark.parametrize("way", ["echo", "prompt_logprobs"])
@pytest.mark.parametrize("counted", [True, False])
def test_values_are_those_of_the_local_model(served, hosted, saved, way, counted):
    served.echoes, served.scores_prompts = way == "echo", way == "prompt_logprobs"
    generator = hosted(end_token="</s>", tokenizer=str(saved) if counted else None, context=600)
    assert generator.way == way
    found = generator.score(packed(generator, 600))
    for aligned, expected in zip(found, local_logp(saved), strict=True):
        assert [*aligned.logp, aligned.end_logp] == pytest.approx(expected, abs=1e-4)
        assert not aligned.merged
    sums = generator.token_logp(packed(generator, 600)).sum(1)
    assert sums.tolist() == pytest.approx([sum(row) for row in local_logp(saved)], abs=1e-4)


def test_without_an_end_token_the_end_is_not_scored(served, hosted, saved):
    generator = hosted(context=600)
    found = generator.score(packed(generator, 600))
    assert [a.end_logp for a in found] == [None] * 4
    for aligned, expected in zip(found, local_logp(saved), strict=True):
        assert aligned.logp == pytest.approx(expected[:-1], abs=1e-4)


def test_text_only_is_detected_in_the_reply(served, hosted):
    served.echoes = False
    generator = hosted(context=600)
    batch = packed(generator, 600)
    assert generator.way is None
    assert generator.score(batch) is None
    assert all(a.logp is None for a in generator.write(batch, 4))
    with pytest.raises(EndpointError, match="gives no log-probabilities"):
        generator.token_logp(batch)
    with pytest.raises(EndpointError, match=r"Use generator\.logprobs=auto, or none"):
        _ = hosted(logprobs="echo", context=600).way


def test_an_end_that_is_no_token_is_refused(hosted):
    with pytest.raises(EndpointError, match="'</end>' is not one token") as told:
        _ = hosted(end_token="</end>").way
    assert told.value.field == "end_token"


def test_what_is_written_is_what_the_local_model_writes(served, hosted, saved):
    from rag_exp.models.decoding.greedy import greedy

    generator = hosted(context=600, stop=[])
    found = generator.write(packed(generator, 600), 6)
    reader = Pretrained(name=str(saved)).create(None, 0)
    local = greedy(reader, packed(reader), 6)
    assert [a.text for a in found] == [t.strip() for t in reader.tokenizer.decode(local.ids)]
    assert [a.logp for a in found] == pytest.approx(local.logp_R.tolist(), abs=1e-4)


def test_nothing_is_asked_twice(served, hosted, tmp_path):
    first = hosted(context=600)
    batch = packed(first, 600)
    scored, wrote = first.score(batch), first.write(batch, 4)
    sent = len(served.asked)
    assert sent == 1 + 4 + 4  # how it scores, then each row
    again = hosted(context=600, concurrency=2, timeout=5)
    batch = packed(again, 600)
    assert (again.score(batch), again.write(batch, 4)) == (scored, wrote)
    assert len(served.asked) == sent
    assert (again.spent.requests, again.spent.kept) == (0, 8)
    assert again.spent.tokens == first.spent.tokens
    kept = sorted(f for f in (tmp_path / "replies").rglob("*.json"))
    assert len(kept) == 9
    for file in kept:
        file.write_text(file.read_text()[:-5])  # damaged
    mended = hosted(context=600)
    assert mended.score(packed(mended, 600)) == scored
    assert len(served.asked) == sent + 5
    sent = len(served.asked)
    renamed = hosted(context=600, revision="new")
    renamed.write(packed(renamed, 600), 4)
    assert len(served.asked) == sent + 1 + 4
