"""Which decoder writes the answers: the one place where an objective and ``evaluation.decode`` meet.

========== =========================================== =============================================
decode     one distribution of the next token:         a sum over whole answers: RAG-Sequence and
           RAG-Token, and where there is one reading   what shares its marginal, by passage
========== =========================================== =============================================
greedy     the likeliest token at each step            the same given each passage, then *fast*
beam       beam search                                 an error
fast       an error                                    beams given each passage, then *fast*
thorough   an error                                    beams given each passage, then *thorough*
choices    each question's choices, ranked by the objective's own nats
========== =========================================== =============================================

A hosted generator writes one answer to a prompt: there are no beams, and *thorough* weighs what passages led to
(:mod:`rag_exp.evaluation.hosted`).

No torch is imported before something is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_exp.core.errors import DataError
from rag_exp.data.questions import QuestionTable
from rag_exp.evaluation.options import EvaluationOptions
from rag_exp.models.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from rag_exp.models.decoding.ranked import Ranked
    from rag_exp.models.packing import Ids, ReaderBatch
    from rag_exp.models.reader import Generator


def decoding_problems(
    objective: Objective, options: EvaluationOptions, hosted: bool = False, offered: bool = False
) -> list[str]:
    """Why answers cannot be written so: one sentence each.

    Args:
        hosted: whether the generator runs elsewhere, and writes as it does.
        offered: whether the questions come with choices of their own.
    """
    decode, named = options.decode, f"objective={objective.kind}"  # type: ignore[attr-defined]
    where = f"evaluation.decode: {decode}"
    found = []
    if hosted and decode in ("beam", "fast"):
        found.append(
            f"{where}: a hosted generator writes one answer to a prompt and has no beams; use greedy (over passages it "
            "is fast decoding), thorough, choices or none."
        )
    if hosted and decode == "thorough" and options.beam != 1:
        found.append(f"evaluation.beam: {options.beam}: a hosted generator writes one answer a passage; use 1.")
    if hosted and decode == "choices" and objective.reading == "each" and objective.marginal == "token":
        found.append(
            f"{where}: {named} mixes passages at every token, and an endpoint's tokens of an answer may differ from "
            "passage to passage; use an objective that sums over whole answers, such as rag_sequence."
        )
    if decode == "beam" and _sums_answers(objective):
        found.append(f"{where}: {named} sums over whole answers, it has no next token; use fast or thorough.")
    if decode in ("fast", "thorough") and not _sums_answers(objective):
        found.append(f"{where}: {named} does not sum over whole answers by passage; use beam.")
    if decode == "choices" and not options.choices and not offered:
        found.append(
            "evaluation.choices: none are given to rank, and the questions name none of their own; give those of all "
            "questions, as evaluation.choices=[yes,no,maybe], or where each record holds its own, as "
            "questions.fields.choices=choices (questions=jsonl or hub)."
        )
    return found


def choices_of(questions: QuestionTable, options: EvaluationOptions) -> list[list[str]]:
    """What each question's answer is chosen among; nothing where answers are not chosen.

    Raises:
        DataError: a question has no choices, or none that is an answer to it.
    """
    if options.decode != "choices":
        return [[] for _ in range(len(questions))]
    found = questions.choices if options.choices is None else [list(options.choices)] * len(questions)
    without = [id for id, choices in zip(questions.ids, found, strict=True) if not choices]
    if without:
        raise DataError(
            f"{len(without)} of {len(found)} questions have no choices to rank, first {without[0]!r}. Give every "
            "question its own (questions.fields.choices), or all the same (evaluation.choices=[yes,no,maybe])."
        )
    facts = zip(questions.ids, questions.answers, found, strict=True)
    missed = [(id, answers) for id, answers, choices in facts if not set(answers) & set(choices)]
    if missed:
        id, answers = missed[0]
        raise DataError(
            f"{len(missed)} of {len(found)} questions have no answer among their choices, first {id!r} (answer "
            f"{answers[0]!r}): evaluation.choices must hold an accepted answer of every question, letter by letter."
        )
    return found


def answers(
    generator: Generator,
    batch: ReaderBatch,
    doc_logprior_BK: Tensor,
    objective: Objective,
    options: EvaluationOptions,
    max_new_tokens: int,
    choices: Sequence[Sequence[Ids]] = (),
) -> Ranked:
    """Answers to the B questions of a batch, best first.

    Args:
        doc_logprior_BK: log p(z|x) of the batch's rows; zeros [B, 1] where there is one reading.
        max_new_tokens: longest answer written, end token included.
        choices: of each question, what ``decode=choices`` ranks, without end tokens.

    Raises:
        DataError: a prompt and an answer do not fit the generator's context.
    """
    from rag_exp.models.decoding.beam import Search, beam_search, beam_token_marginal
    from rag_exp.models.decoding.choices import rank_choices
    from rag_exp.models.decoding.greedy import greedy, greedy_token_marginal
    from rag_exp.models.decoding.ranked import Ranked
    from rag_exp.models.decoding.sequence import fast, fast_sequence, thorough

    search = Search(max_new_tokens, options.beam, options.length_penalty)
    match options.decode:
        case "greedy" if objective.marginal == "token":
            written = greedy_token_marginal(generator, batch, doc_logprior_BK, max_new_tokens)
            alone = [[one] for one in zip(written.ids, written.logp_R.tolist(), strict=True)]
            return Ranked(alone, written.target_logp_NT, written.counts)
        case "greedy":
            written = greedy(generator, batch, max_new_tokens)
            ranked = fast_sequence(written.ids, written.logp_R, doc_logprior_BK)
            return Ranked(ranked, written.target_logp_NT, written.counts)
        case "beam" if objective.marginal == "token":
            return beam_token_marginal(generator, batch, doc_logprior_BK, search)
        case "beam":
            return beam_search(generator, batch, search)
        case "fast":
            return fast(generator, batch, doc_logprior_BK, search)
        case "thorough":
            return thorough(generator, batch, doc_logprior_BK, search)
        case "choices":
            return rank_choices(generator, batch, doc_logprior_BK, choices, objective.nll, options.length_penalty)
    raise AssertionError(f"evaluation.decode={options.decode} writes no answers")


def _sums_answers(objective: Objective) -> bool:
    return objective.reading == "each" and objective.marginal == "sequence"
