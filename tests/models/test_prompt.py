"""Templates: what they may hold, and the pieces they fall into."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rag_exp.models.prompt import PromptOptions


def test_question_stands_before_the_passages_by_default():
    template = PromptOptions().template
    assert template.index("{question}") < template.index("{passages}")


def test_pieces_and_the_spaces_that_move_into_fields():
    options = PromptOptions(
        template="Q: {question}\n{passages}", passage="Title {title} says {text}.\n", answer_prefix="A: "
    )
    template, passage = options.pieces()
    assert template == [("Q:", "question"), ("\n", "passages"), ("A:", "answer")]
    assert passage == [("Title", "title"), (" says", "text"), (".\n", None)]
    assert [options.lead(f) for f in ("question", "title", "text", "answer")] == [" "] * 4
    assert [PromptOptions().lead(f) for f in ("question", "title", "text", "answer")] == ["", "", " ", ""]


def test_braces_meant_as_text():
    template, _ = PromptOptions(template="{{x}} {question}{{ {passages}}}").pieces()
    assert template == [("{x}", "question"), ("{ ", "passages"), ("}", "answer")]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("template", "{question}", "needs {passages} exactly once, has it 0 times"),
        ("template", "{question}{question}{passages}", "needs {question} exactly once, has it 2 times"),
        ("template", "{question}{passages}{answer}", "unknown field {answer}; known here: {question}, {passages}"),
        ("template", "{question}{passages", "expected '}' before end of string; write {{ and }} for braces"),
        ("passage", "{title}", "needs {text} exactly once"),
        ("passage", "{title}{text}{title}", "the field {title} stands there 2 times"),
        ("passage", "{title:>10}{text}", "the field {title} takes no format"),
        ("passage", "{}{text}", "unknown field {}"),
    ],
)
def test_wrong_templates_say_why(field, value, reason):
    with pytest.raises(ValidationError) as error:
        PromptOptions(**{field: value})
    assert reason in str(error.value)


def test_order_is_identity_only_where_passages_share_a_prompt():
    rank, reverse = PromptOptions(), PromptOptions(passage_order="reverse")
    assert rank.identity_for(joint=False) == reverse.identity_for(joint=False)
    assert rank.identity_for(joint=True) != reverse.identity_for(joint=True)
    assert "passage_order" in rank.identity_for(joint=True)
    changed = PromptOptions(max_answer_tokens=8)
    assert changed.identity_for(joint=False) != rank.identity_for(joint=False)


def test_answer_room_against_the_context():
    options = PromptOptions(max_answer_tokens=32)
    assert options.problems(33, seq2seq=False) == []
    (problem,) = options.problems(32, seq2seq=False)
    assert problem.startswith("prompt.max_answer_tokens: 32 tokens do not fit the generator's context of 32")
    assert options.problems(32, seq2seq=True) == []
    assert len(options.problems(31, seq2seq=True)) == 1
