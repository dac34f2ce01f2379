"""Packing, id by id: order, truncation, padding, targets and positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_exp.core.errors import DataError
from rag_exp.data.tokenizer import TextTokenizer
from rag_exp.models.flops import TokenCounts
from rag_exp.models.packing import IGNORE, Packer
from rag_exp.models.prompt import PromptOptions


class Letters:
    """A vocabulary in which every character is its code point, to see the packed text."""

    pad, bos, eos, size = 0, 1, 2, 200

    def __init__(self, bos: int | None = 1):
        self.bos = bos

    def encode(self, texts):
        return [[ord(c) for c in t] for t in texts]

    def decode(self, rows):
        return ["".join({0: "_", 1: "<", 2: ">"}.get(i) or chr(i) for i in row) for row in rows]


def packer(context: int = 64, seq2seq: bool = False, bos: int | None = 1, **options) -> Packer:
    settings = {"template": "Q{question}|{passages}", "passage": "{title}:{text};", "answer_prefix": "A"} | options
    return Packer(Letters(bos), PromptOptions(**{"max_answer_tokens": 4} | settings), context, seq2seq)


def ids(text: str) -> list[int]:
    return [ord(c) for c in text]


def passage(title: str, text: str) -> tuple[list[int], list[int]]:
    return ids(title), ids(text)


def shown(packed) -> list[str]:
    return Letters().decode(packed.input_ids_NL.tolist())


def test_marginal_rows_are_exact():
    packed = packer().pack(
        [ids("ab"), ids("c")],
        [[passage("t", "xyz"), passage("u", "w")], [passage("v", "q"), ([], [])]],
        [ids("no"), ids("y")],
    )
    assert shown(packed) == ["<Qab|t:xyz;Ano", "<Qab|u:w;Ano__", "<Qc|v:q;Ay____", "<Qc|Ay________"]
    assert packed.per_question == 2
    assert packed.attention_mask_NL.tolist() == [[int(c != "_") for c in row] for row in shown(packed)]
    assert packed.prompt_lengths_N.tolist() == [12, 10, 9, 5]
    no, yes = [ord("n"), ord("o"), 2], [ord("y"), 2, IGNORE]
    assert packed.targets_NT.tolist() == [no, no, yes, yes]
    assert packed.target_positions_NT.tolist() == [[11, 12, 13], [9, 10, 11], [8, 9, 0], [4, 5, 0]]
    assert packed.target_mask_BT.tolist() == [[True, True, True], [True, True, False]]
    assert (packed.truncated_passages, packed.truncated_tokens) == (0, 0)


def test_positions_point_at_the_token_before_each_target():
    packed = packer().pack([ids("ab")], [[passage("t", "xyz")]], [ids("no")])
    before = packed.input_ids_NL[0, packed.target_positions_NT[0]].tolist()
    assert Letters().decode([before]) == ["Ano"]


def test_seq2seq_rows_end_with_the_end_token_and_targets_stand_alone():
    packed = packer(seq2seq=True).pack([ids("ab")], [[passage("t", "xyz"), passage("u", "w")]], [ids("no")])
    assert shown(packed) == ["<Qab|t:xyz;A>", "<Qab|u:w;A>__"]
    assert packed.targets_NT.tolist() == [[ord("n"), ord("o"), 2]] * 2
    assert packed.target_positions_NT is None
    assert packed.counts == TokenCounts(
        rows=2, tokens=30, target_tokens=6, input_tokens=24, decoder_tokens=6,
        input_squares=13**2 + 11**2, decoder_squares=18, cross=3 * 24,
    )  # fmt: skip


def test_decoder_only_counts():
    packed = packer().pack([ids("ab")], [[passage("t", "xyz"), passage("u", "w")]], [ids("no")])
    assert packed.counts == TokenCounts(
        rows=2, tokens=26, target_tokens=6, input_tokens=26, input_squares=14**2 + 12**2
    )


def test_closed_book_and_joint_reading():
    closed = packer().pack([ids("ab"), ids("c")], [[], []], [ids("no"), ids("y")])
    assert shown(closed) == ["<Qab|Ano", "<Qc|Ay__"]
    assert closed.per_question == 1
    two = [[passage("t", "x"), passage("u", "w")]]
    best_first = packer().pack([ids("ab")], two, joint=True)
    assert shown(best_first) == ["<Qab|t:x;u:w;A"]
    assert best_first.per_question == 1
    assert shown(packer(passage_order="reverse").pack([ids("ab")], two, joint=True)) == ["<Qab|u:w;t:x;A"]
    apart = packer(passage_order="reverse").pack([ids("ab")], two)
    assert shown(apart) == ["<Qab|t:x;A", "<Qab|u:w;A"]  # order has no meaning where each is read by itself


def test_without_answers_there_is_nothing_to_score():
    packed = packer().pack([ids("ab")], [[passage("t", "xyz")]])
    assert packed.targets_NT is None
    assert packed.target_positions_NT is None
    assert shown(packed) == ["<Qab|t:xyz;A"]
    with pytest.raises(AssertionError):
        packed.target_mask_BT  # noqa: B018


def test_a_missing_title_takes_its_separator_along():
    assert shown(packer().pack([ids("a")], [[passage("", "xyz")]])) == ["<Qa|xyz;A"]
    after = packer(passage="{text}({title});")
    assert shown(after.pack([ids("a")], [[passage("", "xyz")]])) == ["<Qa|xyz();A"]


def test_begin_token_only_where_there_is_one_and_it_is_wanted():
    assert shown(packer(bos=None).pack([ids("a")], [[]])) == ["Qa|A"]
    assert shown(packer(begin=False).pack([ids("a")], [[]])) == ["Qa|A"]


def test_passages_are_cut_to_the_token():
    """Fixed text <Q|:;A is 6, the question 2, the room kept for the answer 4: 20 leaves 8 for title and text."""
    for length in (6, 7, 8, 30):
        packed = packer(context=20).pack([ids("ab")], [[passage("t", "x" * length)]], [ids("no")])
        kept = min(length, 7)
        assert shown(packed) == ["<Qab|t:" + "x" * kept + ";Ano"]
        assert packed.truncated_tokens == length - kept
        assert packed.truncated_passages == int(length > kept)


def test_a_title_is_cut_only_after_its_text_is_gone():
    packed = packer(context=20).pack([ids("ab")], [[passage("title is long", "xyz")]])
    assert shown(packed) == ["<Qab|title is:;A"]
    assert packed.truncated_tokens == 8


def test_the_prompt_does_not_depend_on_the_answer():
    pack = packer(context=20).pack
    long = [[passage("t", "x" * 30)]]
    written, short, longest = (
        pack([ids("ab")], long),
        pack([ids("ab")], long, [[]]),
        pack([ids("ab")], long, [ids("abc")]),
    )
    assert (
        written.prompt_lengths_N.tolist()
        == short.prompt_lengths_N.tolist()
        == longest.prompt_lengths_N.tolist()
        == [16]
    )
    assert longest.input_ids_NL.shape[1] == 19  # the last token of the room is the end token, which is never fed


def test_an_absent_passage_adds_nothing():
    """In one prompt it leaves no separators and takes no room; read by itself it leaves the closed-book prompt."""
    questions, answers = [ids("ab"), ids("c")], [ids("no"), ids("y")]
    read = [[passage("t", "x"), ([], []), passage("u", "w")], [passage("v", "q"), ([], []), ([], [])]]
    packed = packer().pack(questions, read, answers, joint=True)
    assert shown(packed) == ["<Qab|t:x;u:w;Ano", "<Qc|v:q;Ay______"]
    tight = [[passage("t", "x" * 9)], [passage("t", "x" * 9), ([], [])]]
    alone, beside = (packer(context=20).pack(questions[:1], [row], answers[:1], joint=True) for row in tight)
    assert shown(alone) == shown(beside)
    closed = packer().pack(questions, [[], []], answers)
    assert torch.equal(packer().pack(questions, [[([], [])]] * 2, answers).input_ids_NL, closed.input_ids_NL)


def test_fused_rows_hold_the_prompts_one_behind_the_other():
    questions, answers = [ids("ab"), ids("c"), ids("d")], [ids("no"), ids("y"), ids("z")]
    read = [[passage("t", "x"), passage("u", "wvw")], [([], []), passage("v", "q")], [([], []), ([], [])]]
    fused = packer(seq2seq=True).pack(questions, read, answers, fused=True)
    assert shown(fused) == ["<Qab|t:x;A><Qab|u:wvw;A>", "<Qc|v:q;A>______________", "<Qd|A>__________________"]
    assert fused.parts_NK.tolist() == [[11, 13], [0, 10], [6, 0]]
    assert fused.lengths_N.tolist() == [24, 10, 6]
    assert (fused.per_question, fused.target_mask_BT.shape) == (1, (3, 3))
    assert fused.counts == TokenCounts(
        rows=4, tokens=40 + 7, target_tokens=7, input_tokens=40, decoder_tokens=7,
        input_squares=11**2 + 13**2 + 10**2 + 6**2, decoder_squares=9 + 4 + 4, cross=3 * 24 + 2 * 10 + 2 * 6,
    )  # fmt: skip
    assert (
        fused.select(np.array([1])).counts
        == packer(seq2seq=True).pack([ids("c")], [[passage("v", "q")]], [ids("y")]).counts
    )


def test_joint_passages_share_the_room_longest_cut_first():
    """Fixed text is 4 + 3 * 2; with a question of 1 and an answer of 4, 16 of 31 are left for 3, 1 and 20 tokens."""
    packed = packer(context=31).pack(
        [ids("a")], [[passage("t", "xx"), passage("u", ""), passage("v", "y" * 19)]], joint=True
    )
    assert shown(packed) == ["<Qa|t:xx;u:;v:" + "y" * 11 + ";A"]
    assert packed.truncated_N.tolist() == [1]
    assert packed.lost_N.tolist() == [8]


def test_a_question_that_leaves_no_room_is_an_error():
    with pytest.raises(DataError, match="a question of 11 tokens does not fit the generator's context of 20"):
        packer(context=20).pack([ids("ab"), ids("q" * 11)], [[passage("t", "x")]] * 2)


def test_an_answer_that_is_too_long_is_an_error():
    packer().pack([ids("ab")], [[]], [ids("abc")])
    with pytest.raises(DataError, match="answer 1 of the batch has 5 tokens with its end token"):
        packer().pack([ids("ab")] * 2, [[], []], [ids("a"), ids("abcd")])


def test_room_problems_name_what_is_too_long():
    fits = packer(context=20)
    assert fits.room_problems([ids("ab")], [ids("abc")], passages=1) == []
    (long_answer,) = fits.room_problems([ids("ab")], [ids("abcd"), ids("a")], passages=1)
    assert "1 of 2 answers are longer than 4 tokens (the longest has 5 with its end token)" in long_answer
    assert fits.room_problems([ids("q" * 9)], [], passages=1) == []
    (long_question,) = fits.room_problems([ids("q" * 10), ids("a")], [], passages=1)
    assert "fixed text 6 + longest question 10 + answer 4 tokens leave no room for 1 passages" in long_question
    (many,) = fits.room_problems([ids("ab")], [], passages=4)
    assert "for 4 passages" in many
    seq2seq = packer(context=20, seq2seq=True)
    assert seq2seq.room_problems([ids("q" * 12)], [], passages=1) == []
    assert len(seq2seq.room_problems([ids("q" * 13)], [], passages=1)) == 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16), joint=st.booleans(), seq2seq=st.booleans(), context=st.integers(30, 60),
    passages=st.integers(0, 3), questions=st.integers(1, 4),
)  # fmt: skip
def test_packed_rows_hold_the_question_the_answer_and_as_much_of_the_passages_as_fits(
    seed, joint, seq2seq, context, passages, questions
):
    rng = np.random.default_rng(seed)
    draw = lambda most, least=0: rng.integers(97, 120, rng.integers(least, most + 1)).tolist()  # noqa: E731
    Q, A = [draw(6) for _ in range(questions)], [draw(3) for _ in range(questions)]
    read = [[(draw(5, 1), draw(40)) for _ in range(passages)] for _ in range(questions)]
    pack = packer(context=context, seq2seq=seq2seq)
    packed = pack.pack(Q, read, A, joint=joint)
    copies = 1 if joint or passages == 0 else passages
    assert len(packed.input_ids_NL) == questions * copies
    for n, row in enumerate(packed.input_ids_NL.tolist()):
        length, prompt = int(packed.lengths_N[n]), int(packed.prompt_lengths_N[n])
        question, answer = Q[n // copies], A[n // copies]
        assert row[length:] == [0] * (len(row) - length)
        assert row[2 : 2 + len(question)] == question
        assert row[prompt:length] == ([] if seq2seq else answer)
        assert prompt + (0 if seq2seq else 4) <= context
        assert [t for t in packed.targets_NT[n].tolist() if t != IGNORE] == [*answer, 2]
        asked = read[n] if joint else read[n // copies][n % copies : n % copies + 1]
        total = sum(len(t) + len(x) for t, x in asked)
        assert packed.lost_N[n] <= total
        if packed.lost_N[n]:  # what is cut is cut because it does not fit: less than one token a passage is left over
            assert prompt + (0 if seq2seq else 4) > context - max(1, len(asked))


def test_selected_rows_equal_rows_packed_apart():
    pack = packer()
    questions, answers = [ids("ab"), ids("c"), ids("defg")], [ids("no"), ids("y"), []]
    read = [
        [passage("t", "xyz"), passage("u", "w")],
        [passage("v", "q"), ([], [])],
        [passage("", "r"), passage("k", "")],
    ]
    chosen = pack.pack(questions, read, answers).select(np.array([2, 3, 4, 5]))
    apart = pack.pack(questions[1:], read[1:], answers[1:])
    for name in ("input_ids_NL", "attention_mask_NL", "prompt_lengths_N", "targets_NT", "target_positions_NT"):
        assert torch.equal(getattr(chosen, name), getattr(apart, name)), name
    assert chosen.counts == apart.counts


def test_to_moves_every_tensor():
    packed = packer().pack([ids("ab")], [[passage("t", "xyz")]], [ids("no")]).to("meta")
    tensors = [packed.input_ids_NL, packed.attention_mask_NL, packed.prompt_lengths_N]
    tensors += [packed.targets_NT, packed.target_positions_NT]
    assert {t.device.type for t in tensors} == {"meta"}
    assert packed.counts.rows == 1


def test_fields_are_tokenized_with_the_space_before_them(tokenizer: TextTokenizer):
    options = PromptOptions(template="Q: {question}\n{passages}", answer_prefix="A: ", max_answer_tokens=12)
    pack = Packer(tokenizer, options, 96, seq2seq=False)
    question, answer = pack.tokens(["What is it?"], "question"), pack.tokens(["Oslo"], "answer")
    title, body = pack.tokens(["Norway"], "title"), pack.tokens(["capital Oslo"], "text")
    packed = pack.pack(question, [[(title[0], body[0])]], answer)
    assert tokenizer.decode(packed.input_ids_NL.tolist()) == ["Q: What is it?\nNorway: capital Oslo\nA: Oslo"]
    assert answer == tokenizer.encode([" Oslo"])
    assert title == tokenizer.encode(["Norway"])


def test_the_passages_of_a_path_share_a_prompt():
    paths = [passage("t", "xyz"), passage("u", "w"), passage("u", "w"), passage("t", "xyz")]
    packed = packer().pack([ids("ab")], [paths], [ids("no")], hops=2)
    assert shown(packed) == ["<Qab|t:xyz;u:w;Ano", "<Qab|u:w;t:xyz;Ano"]
    assert packed.per_question == 2
    assert packed.target_mask_BT.tolist() == [[True] * 3]


def test_paths_are_read_in_their_own_order():
    packed = packer(passage_order="reverse").pack([ids("a")], [[passage("t", "x"), passage("u", "w")]], hops=2)
    assert shown(packed) == ["<Qa|t:x;u:w;A"]


def test_both_passages_of_a_path_are_cut_to_equal_length():
    packed = packer(context=24).pack([ids("ab")], [[passage("t", "xxxxxxxx"), passage("u", "wwwwwwwwwww")]], hops=2)
    assert shown(packed) == ["<Qab|t:xxxx;u:wwww;A"]
    assert packed.truncated_passages == 2
