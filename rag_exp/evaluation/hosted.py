"""Evaluation with a hosted generator: what it scores and writes, in the columns of every evaluation.

Each passage's answer is scored by a request of its own; the marginals are then those of any reader. What an
endpoint does not tell is null, with the reason:

* no log-probabilities of a given answer: everything that is made of them;
* no end token: ``nll``, which holds it by definition, and ``nll_any``, whose answers are only told apart by their
  ends. Posterior and nats per passage are then those of the answer without its end;
* tokens of an answer that differ from passage to passage (they seldom do): no marginal that mixes passages at every
  token.

Answers are written passage by passage and chosen by the fast rule of RAG-Sequence, whatever the objective: an
endpoint cannot mix passages at every token. Without their log-probabilities the rule goes by the prior alone. Where it
scores given texts, *thorough* decoding scores the answer that each passage led to given every other passage too, and
*choices* ranks given answers. Beams there are none: an endpoint writes one answer to a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rag_exp.core.errors import EndpointError
from rag_exp.evaluation.evaluate import Reader
from rag_exp.models.decoding.sequence import fast_sequence
from rag_exp.models.flops import TokenCounts
from rag_exp.models.hosted.alignment import Aligned
from rag_exp.models.hosted.generator import Answer, HostedGenerator
from rag_exp.models.packing import ReaderBatch

NO_LOGPROBS = "the endpoint gives text only, no log-probabilities of a given answer"
NO_END = "the endpoint is not asked for the end token's probability (generator.end_token): see nll_without_end"
UNEQUAL = "the endpoint's tokens of some answer differ from passage to passage, so they cannot be mixed one by one"
OF_LOGPROBS = (
    *("nll", "nll_without_end", "nll_any", "nll_unnormalized", "target_tokens"),
    *("posterior", "passage_nll", "null_posterior", "null_nll"),
)
OF_END = ("nll", "nll_any", "nll_unnormalized", "target_tokens")


class HostedReader(Reader):
    """Reads batches of questions through an endpoint."""

    generator: HostedGenerator

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._scores = self.generator.way is not None
        self._ends = self._scores and self.generator.options.end_token is not None
        if not self._scores:
            self.nulls = dict.fromkeys(OF_LOGPROBS, NO_LOGPROBS)
        elif not self._ends:
            self.nulls = dict.fromkeys(OF_END, NO_END)
        self._by_prior_alone = 0

    def read(self, items: Sequence[int]) -> list[dict[str, Any]]:
        rows = super().read(items)
        for row in rows:
            unequal = self._scores and math.isnan(row["nll"])
            if unequal:
                self.nulls |= {name: UNEQUAL for name in OF_LOGPROBS if name not in self.nulls}
            lost = OF_LOGPROBS if unequal or not self._scores else () if self._ends else OF_END
            row |= dict.fromkeys(lost)
        return rows

    def notes(self) -> list[str]:
        spent, way = self.generator.spent, self.generator.way
        asked = f"{spent.requests} requests sent, {spent.kept} answers known from before"
        end = "with its end token" if self._ends else "without its end token"
        found = [f"{asked}; " + (f"a given answer is scored {end}, by {way}" if way else NO_LOGPROBS)]
        if spent.merged:
            found.append(f"in {spent.merged} of {spent.scored} scored readings the answer begins inside a token")
        if self._writes and self.objective.marginal == "token":
            found.append("answers were written passage by passage (RAG-Sequence, fast), not mixed at every token")
        if self._by_prior_alone:
            found.append(
                f"{self._by_prior_alone} answers were chosen among passages by the prior alone (fast decoding)"
            )
        if spent.tokens is None:
            found.append("the endpoint does not always count tokens, so their number is not known")
        return found

    @property
    def _writes(self) -> bool:
        return self.options.decode != "none"

    def spent(self) -> TokenCounts | None:
        """Tokens by the endpoint's count; its FLOPs are counted by them alone (see ``Hosted.sizes``)."""
        tokens = self.generator.spent.tokens
        return None if tokens is None else TokenCounts(tokens=tokens, input_tokens=tokens)

    def _score(
        self, batch: ReaderBatch, prior_BK: Tensor, to_write: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, list[str | None]]:
        B = len(prior_BK)
        predictions: list[str | None] = [None] * B
        if to_write:
            over_BK = prior_BK if prior_BK.shape[1] == batch.per_question else prior_BK.new_zeros(B, batch.per_question)
            predictions = self._written_answers(batch, over_BK, to_write)
        scored = self.generator.score(batch)
        if scored is None:
            nothing_BK1 = torch.full((B, batch.per_question, 1), math.nan, dtype=torch.float64)
            return nothing_BK1, torch.ones(B, 1, dtype=torch.bool), predictions
        K = batch.per_question
        return *self._table([scored[b * K : (b + 1) * K] for b in range(B)]), predictions

    def _written_answers(self, batch: ReaderBatch, prior_BK: Tensor, items: Sequence[int]) -> list[str | None]:
        """An answer to each question; what was ranked goes beside them."""
        decode = self.options.decode
        if decode == "choices":
            choices = [self._choices[item] for item in items]
            given = [self.generator.tokenizer.decode([self._choice_ids[text] for text in one]) for one in choices]
            ranked = self._ranked(batch, prior_BK, given, self.options.length_penalty)
            logp = [dict(one) for one in ranked]
            self._beside["choices"] = choices
            self._beside["choice_logp"] = [[of[text] for text in one] for of, one in zip(logp, given, strict=True)]
        else:
            most = min(self.options.max_new_tokens, self.packer.options.max_answer_tokens)
            answers = self.generator.write(batch, most)
            by_fast = self._chosen(answers, prior_BK)
            if decode != "thorough":
                return list(by_fast)
            K, lead = batch.per_question, self.packer.options.lead("answer")
            # Of an empty answer an endpoint tells no probability.
            given = [[lead + a.text for a in answers[b * K : (b + 1) * K] if a.text] for b in range(len(prior_BK))]
            ranked = self._ranked(batch, prior_BK, given)
            self._beside["fast_prediction"] = list(by_fast)
        self._beside["candidates"] = [[text.strip() for text, _ in one] for one in ranked]
        self._beside["candidate_logp"] = [[score for _, score in one] for one in ranked]
        return [one[0] if one else "" for one in self._beside["candidates"]]

    def _ranked(
        self, batch: ReaderBatch, prior_BK: Tensor, given: Sequence[Sequence[str]], length_penalty: float = 0.0
    ) -> list[list[tuple[str, float]]]:
        """The different texts given to each question by their log-probability under the objective's marginal.

        Args:
            length_penalty: they are ranked by what is divided by the number of tokens ** this.

        Raises:
            EndpointError: the endpoint gives no log-probabilities.
        """
        K, prompts = batch.per_question, self.generator.prompts(batch)
        owned = [(b, text) for b, texts in enumerate(given) for text in dict.fromkeys(texts)]
        ranked: list[list[tuple[float, str, float]]] = [[] for _ in given]
        if not owned:
            return [[] for _ in given]
        asked = [(prompts[b * K + k], text) for b, text in owned for k in range(K)]
        scored = self.generator.score_texts(*zip(*asked, strict=True))
        if scored is None:
            raise EndpointError(f"{NO_LOGPROBS}, by which answers could be ranked.", field="logprobs")
        logp_CKT, mask_CT = self._table([scored[c * K : (c + 1) * K] for c in range(len(owned))])
        nats_C = self._nll(logp_CKT, mask_CT, prior_BK[[b for b, _ in owned]])
        divided_C = nats_C / mask_CT.sum(1) ** length_penalty
        for (b, text), nats, divided in zip(owned, nats_C.tolist(), divided_C.tolist(), strict=True):
            ranked[b].append((divided, text, -nats))
        return [[(text, logp) for _, text, logp in sorted(one, key=lambda candidate: candidate[0])] for one in ranked]

    def _table(self, scored: list[list[Aligned]]) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, K, T] of the answers' tokens, the end token behind them, and the mask [B, T].

        Where the number of tokens differs between a question's passages the shorter ones are filled up with zeros,
        which changes no sum over an answer.
        """
        K = len(scored[0])
        widths = [max(len(a.logp) for a in row) + self._ends for row in scored]
        logp_BKT = torch.zeros(len(scored), K, max(widths), dtype=torch.float64)
        for b, row in enumerate(scored):
            for k, aligned in enumerate(row):
                logp_BKT[b, k, : len(aligned.logp)] = torch.tensor(aligned.logp, dtype=torch.float64)
                if aligned.end_logp is not None:
                    logp_BKT[b, k, widths[b] - 1] = aligned.end_logp
            # A merged first token is not the same event for every prompt, though it may look so.
            equal = len({tuple(a.tokens) for a in row}) == 1 and not any(a.merged for a in row)
            if K > 1 and self.objective.marginal == "token" and not equal:
                logp_BKT[b] = math.nan
        return logp_BKT, torch.arange(max(widths)) < torch.tensor(widths)[:, None]

    def _chosen(self, answers: list[Answer], prior_BK: Tensor) -> list[str]:
        """One answer a question, by the fast rule over equal texts."""
        B, K = prior_BK.shape
        texts: dict[str, int] = {}
        ids = [[texts.setdefault(a.text, len(texts))] for a in answers]
        logp_BK = torch.zeros(B, K, dtype=torch.float64)
        for b in range(B):
            of_b = [a.logp for a in answers[b * K : (b + 1) * K]]
            if all(x is not None for x in of_b):
                logp_BK[b] = torch.tensor(of_b, dtype=torch.float64)
            elif K > 1:
                self._by_prior_alone += 1
        known = list(texts)
        return [known[ranked[0][0][0]] for ranked in fast_sequence(ids, logp_BK.flatten(), prior_BK)]

    def _without_end(self, logp_BKT: Tensor, mask_BT: Tensor, prior_BK: Tensor) -> list[float | None]:
        if self._ends:
            return super()._without_end(logp_BKT, mask_BT, prior_BK)
        return self._nll(logp_BKT, mask_BT, prior_BK).tolist()

    def _any(self, items: Sequence[int], passages: Any, prior_BK: Tensor, nll_B: Tensor) -> list[float]:
        return super()._any(items, passages, prior_BK, nll_B) if self._ends else nll_B.tolist()
