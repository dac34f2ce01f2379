"""Scoring and writing through an endpoint, row by row of a packed batch.

The rows of a :class:`~rag_exp.models.packing.ReaderBatch` are turned back into the text they were packed from, sent,
and what comes back is kept on disk in its shortest form (:mod:`rag_exp.models.hosted.replies`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rag_exp.core.errors import EndpointError
from rag_exp.models.hosted import wire
from rag_exp.models.hosted.alignment import Aligned, align
from rag_exp.models.hosted.endpoint import Endpoint
from rag_exp.models.hosted.pace import Pace
from rag_exp.models.hosted.pieces import Pieces
from rag_exp.models.hosted.replies import Replies
from rag_exp.models.packing import IGNORE, ReaderBatch
from rag_exp.models.reader import Generator, Memory

if TYPE_CHECKING:
    from rag_exp.models.hosted.options import Hosted

WAYS: tuple[wire.Way, ...] = ("echo", "prompt_logprobs")
NOT_OFFERED = {400, 404, 422, 500, 501}  # how servers answer to what they do not know
PROBE = ("Two and two is", " four")  # prompt and answer


@dataclass(frozen=True)
class Answer:
    """A written answer.

    Attributes:
        text: up to the first stop, without spaces around it.
        logp: its log-probability, end left out as far as the endpoint leaves it out; None where it is not told.
        finished: whether it came to an end before the longest length.
    """

    text: str
    logp: float | None
    finished: bool


@dataclass
class Spent:
    """What was asked so far. Tokens are by the endpoint's count, those of kept replies included.

    Attributes:
        requests: that were sent and answered.
        kept: answers that were on disk already.
        tokens: of prompts and completions; None once a reply did not say.
        merged, scored: readings whose first token begins in the prompt, of all that were scored.
    """

    requests: int = 0
    kept: int = 0
    tokens: int | None = 0
    merged: int = 0
    scored: int = 0


@dataclass(frozen=True)
class _Job:
    path: str
    body: wire.Json
    about: dict[str, Any]  # what else the reading of the reply depends on
    read: Callable[[wire.Json], dict[str, Any]]
    tokens: int


class HostedGenerator(Generator):
    """A generator without weights.

    It has the face of :class:`~rag_exp.models.reader.Generator` as far as packing and the training of a retriever
    beside it need one; :meth:`score` and :meth:`write` say more.
    """

    def __init__(self, options: Hosted):
        nn.Module.__init__(self)
        file, characters = options.tokenizer_file(), options.characters_per_token
        self.tokenizer = Pieces.of_characters(characters) if file is None else Pieces.of_tokenizer(file)
        self.context, self.seq2seq, self.decoder_start = options.context, False, []
        self.options = options
        pace = Pace(options.requests_per_minute, options.tokens_per_minute)
        self.endpoint = Endpoint(options.base_url, options.key_variable, options.timeout, options.tries, pace)
        self.replies = Replies(options.cache)
        self.spent = Spent()

    @cached_property
    def way(self) -> wire.Way | None:
        """How the endpoint gives log-probabilities of a given text; None where it does not.

        Raises:
            EndpointError: a way that was asked for by name is not there, or the endpoint cannot be asked.
        """
        kept = self.replies.get(self._way_key)
        return self.probe() if kept is None else kept["way"]

    def probe(self) -> wire.Way | None:
        """Ask the endpoint itself, whatever is kept, whether it answers and how it gives log-probabilities.

        Raises:
            EndpointError: it does not answer as it should.
        """
        way, refusal = self._offered()
        if way is None:
            self._now(self._writing(PROBE[0], 1, False))  # does it answer at all?
            if refusal is not None and self.options.logprobs != "auto":
                raise EndpointError(f"{refusal} Use generator.logprobs=auto, or none.", field="logprobs")
        self.replies.put(self._way_key, {"way": way})
        return way

    def close(self) -> None:
        self.endpoint.close()

    def keep(self, memory: Memory) -> None:
        """Nothing is kept for backward: there is none."""

    def token_logp(self, batch: ReaderBatch) -> Tensor:
        """log p(y|x,z) of each row's answer, [N, T]: all of it at the row's first target and 0 at the others.

        The endpoint's tokens are not the batch's pieces, so that only sums over an answer mean something. The end
        token is part of it where ``end_token`` is given.

        Raises:
            EndpointError: the endpoint gives no log-probabilities, or cannot be asked.
        """
        assert batch.targets_NT is not None, "this batch has no answers to score"
        found = self.score(batch)
        if found is None:
            raise EndpointError(
                f"{self.options.base_url} gives no log-probabilities of a given answer.", field="logprobs"
            )
        logp_NT = torch.zeros(batch.targets_NT.shape)
        logp_NT[:, 0] = torch.tensor([sum(a.logp) + (a.end_logp or 0.0) for a in found])
        return logp_NT.to(batch.targets_NT.device)

    def score(self, batch: ReaderBatch) -> list[Aligned] | None:
        """The answer's tokens in each of the N rows and their log-probabilities; None where the endpoint gives none.

        Raises:
            EndpointError: it cannot be asked, or what it gives does not fit what was sent.
        """
        return self.score_texts(self.prompts(batch), self._answers(batch))

    def score_texts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Aligned] | None:
        """As :meth:`score`, of a text behind each prompt, the space between them included; none may be empty."""
        way = self.way
        if way is None:
            return None
        pairs = zip(prompts, answers, strict=True)
        found = [Aligned(**kept) for kept in self._ask([self._scoring(p, a, way) for p, a in pairs])]
        self.spent.scored += len(found)
        self.spent.merged += sum(a.merged for a in found)
        return found

    def write(self, batch: ReaderBatch, max_new_tokens: int) -> list[Answer]:
        """The most likely answer to each of the N rows, by the endpoint's greedy decoding.

        Raises:
            EndpointError: it cannot be asked.
        """
        wants_logp = self.options.scores() and self.way is not None
        jobs = [self._writing(prompt, max_new_tokens, wants_logp) for prompt in self.prompts(batch)]
        return [Answer(**kept) for kept in self._ask(jobs)]

    def save(self, folder: Path) -> None:
        """Nothing: its weights are elsewhere."""

    def _offered(self) -> tuple[wire.Way | None, EndpointError | None]:
        """The way that the endpoint offers, else how it refused the last one tried."""
        refusal = None
        if self.options.scores():
            for way in WAYS if self.options.logprobs == "auto" else (self.options.logprobs,):
                try:
                    self._now(self._scoring(*PROBE, way))
                    return way, None
                except EndpointError as e:
                    if e.field not in (None, "logprobs") or (e.field is None and e.status not in NOT_OFFERED):
                        raise
                    refusal = e
        return None, refusal

    def _now(self, job: _Job) -> None:
        """Send a request once, and read the reply."""
        self._read(job, self.endpoint.post(job.path, job.body | self.options.extra, job.tokens, patient=False))

    @property
    def _way_key(self) -> str:
        options = self.options
        asked = options.logprobs if options.scores() else "none"
        who = {"url": options.base_url, "revision": options.revision, "model": options.model}
        return self.replies.key({**who, "way": asked, "end": options.end_token, "extra": options.extra})

    def prompts(self, batch: ReaderBatch) -> list[str]:
        """The text of each row before its answer."""
        lengths = batch.prompt_lengths_N.tolist()
        return self.tokenizer.decode([ids[:n] for ids, n in zip(batch.input_ids_NL.tolist(), lengths, strict=True)])

    def _answers(self, batch: ReaderBatch) -> list[str]:
        assert batch.targets_NT is not None, "this batch has no answers to score"
        return self.tokenizer.decode([[i for i in row if i != IGNORE] for row in batch.targets_NT.tolist()])

    def _scoring(self, prompt: str, answer: str, way: wire.Way) -> _Job:
        end = self.options.end_token or ""

        def read(reply: wire.Json) -> dict[str, Any]:
            echo = wire.echoed(reply, way)
            if echo is None:
                raise wire.WireError("it holds no log-probabilities of what was sent", "logprobs")
            try:
                return asdict(align(echo, prompt, answer, end))
            except ValueError as e:
                raise wire.WireError(str(e), "end_token" if end else "logprobs") from e

        body = wire.scoring(self.options.model, prompt + answer + end, way)
        about = {"way": way, "prompt": len(prompt), "end": end}
        return _Job(wire.COMPLETIONS, body, about, read, self._size(prompt + answer) + 1)

    def _writing(self, prompt: str, most: int, logprobs: bool) -> _Job:
        stop = list(self.options.stop)

        def read(reply: wire.Json) -> dict[str, Any]:
            text, logp, finished = wire.written(reply)
            cut = min((at for s in stop if (at := text.find(s, len(text) - len(text.lstrip()))) >= 0), default=None)
            if cut is not None:  # the server went on beyond it: its sum is of more than the answer
                text, logp, finished = text[:cut], None, True
            return asdict(Answer(text.strip(), logp, finished))

        about = {"stop": stop}
        size = self._size(prompt) + most
        if self.options.protocol == "chat":
            return _Job(wire.CHAT, wire.chatting(self.options.model, prompt, most, stop), about, read, size)
        body = wire.writing(self.options.model, prompt, most, stop, logprobs)
        return _Job(wire.COMPLETIONS, body, about, read, size)

    def _size(self, text: str) -> int:
        return len(text) // self.options.characters_per_token + 1

    def _ask(self, jobs: Sequence[_Job]) -> list[dict[str, Any]]:
        """What was read from each reply. Equal requests are sent once, those that were answered before not at all."""
        options = self.options
        keys = [self._key(job) for job in jobs]
        found: dict[str, dict[str, Any]] = {}
        new: dict[str, _Job] = {}
        for key, job in zip(keys, jobs, strict=True):
            if key not in found and key not in new:
                kept = self.replies.get(key)
                if kept is None:
                    new[key] = job
                else:
                    found[key] = kept
        self.spent.kept += len(found)
        with ThreadPoolExecutor(max_workers=options.concurrency) as pool:
            futures = {key: pool.submit(self._answer, key, job) for key, job in new.items()}
            try:
                for key, future in futures.items():
                    found[key] = future.result()
                    self.spent.requests += 1
            finally:  # after an error no more are sent; what is under way comes to its end, and is kept
                pool.shutdown(cancel_futures=True)
        for kept in found.values():
            used = kept["usage"]
            known = self.spent.tokens is not None and bool(used)
            self.spent.tokens = self.spent.tokens + sum(used.values()) if known else None  # type: ignore[operator]
        return [found[key]["read"] for key in keys]

    def _key(self, job: _Job) -> str:
        options = self.options
        who = {"url": options.base_url, "revision": options.revision, "path": job.path}
        return self.replies.key({**who, "body": job.body | options.extra, "about": job.about})

    def _answer(self, key: str, job: _Job) -> dict[str, Any]:
        reply = self.endpoint.post(job.path, job.body | self.options.extra, job.tokens)
        kept = {"read": self._read(job, reply), "usage": wire.usage(reply)}
        self.replies.put(key, kept)
        return kept

    def _read(self, job: _Job, reply: wire.Json) -> dict[str, Any]:
        try:
            return job.read(reply)
        except wire.WireError as e:
            raise EndpointError(f"{self.options.base_url}{job.path} answers, but {e}.", 200, e.field) from e
