"""Training steps through the marginals against transformers: time and peak memory, same weights and same loss.

    python scripts/bench_rag.py [--only seq2seq decoder memory passages chain] [--data ../shared/data/nq-open-gold]

=========  ============================================================================================================
seq2seq    a step of a BART of width 256 and 3+3 layers against transformers' RagSequenceForGeneration, with its
           retriever's padding to 300 tokens, and padded to the batch's longest
decoder    a step of a Llama of that dial against a model that computes all logits
memory     the peaks of those steps, and of ours with microbatches and with gradient checkpointing
passages   the peak of a microbatched step with 5 and with 50 passages a question
chain      a step over 5 x 5 paths of two hops against one hop over 25 rows of the same lengths
=========  ============================================================================================================

A step is forward and backward. Eight real questions (two for the chain) with five real passages each: the gold one
and others drawn at random; every round reads other questions. The byte-level BPE is trained on the passages, which
yield fewer pieces than the 50,265 rows that the embedding has. Times: the sides run in turn, after one round that is
not counted; ratios are of medians. Memory: a fresh process for each variant, its peak resident size in one step less
what was resident before it, with model and batch loaded (Linux).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from rag_exp.data.tokenizer import train_bpe
from rag_exp.models.ladder import Ladder
from rag_exp.models.marginalize import doc_logprior, listed_chain_nll, rag_sequence_nll
from rag_exp.models.packing import IGNORE, Packer, ReaderBatch
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Generator, Memory

VOCABULARY = 50_265
PADDED = 300  # RagConfig.max_combined_length: what transformers' retriever pads and cuts prompts to
ANSWER = 64
QUESTIONS, K = 8, 5
CHAIN_QUESTIONS, J = 2, 5

Step = Callable[[ReaderBatch], Tensor]  # a batch to its loss, in nats over all questions


class Questions:
    """Real questions, each with its gold passage and others, packed for a reader."""

    def __init__(self, data: Path):
        self.passages = _lines(data / "passages.jsonl")
        self.questions = _lines(data / "train.jsonl")
        self._place = {passage["id"]: i for i, passage in enumerate(self.passages)}

    def batch(self, reader: Generator, seed: int, count: int, rows: int, hops: int = 1) -> ReaderBatch:
        """``count`` questions with ``rows`` prompts each, of ``hops`` passages each."""
        draw = random.Random(seed)
        packer = Packer(reader.tokenizer, PromptOptions(max_answer_tokens=ANSWER), reader.context, reader.seq2seq)
        questions, passages, answers = [], [], []
        for question in draw.sample(self.questions, count):
            read = [self.passages[self._place[question["positive_passage_ids"][0]]]]
            read += draw.sample(self.passages, rows * hops - 1)
            titles = packer.tokens([passage["title"] for passage in read], "title")
            texts = packer.tokens([passage["text"] for passage in read], "text")
            both = list(zip(titles, texts, strict=True))
            passages += [both[row::rows] for row in range(rows)]
            questions += rows * packer.tokens([question["question"]], "question")
            answers += rows * packer.tokens(question["answers"][:1], "answer")
        return replace(packer.pack(questions, passages, answers, joint=True), per_question=rows)


def ours(reader: Generator) -> Step:
    def loss(batch: ReaderBatch) -> Tensor:
        scores_BK = scores(batch)
        token_logp_BKT = reader.token_logp(batch).view(*scores_BK.shape, -1)
        return rag_sequence_nll(token_logp_BKT, doc_logprior(scores_BK), batch.target_mask_BT).sum()

    return loss


def chain(reader: Generator) -> Step:
    """All paths of K first passages and J second ones of each, under the global prior: it is that of one hop whose
    scores are the sums of the two hops', so that the losses are equal."""

    def loss(batch: ReaderBatch) -> Tensor:
        scores_BKJ = scores(batch).view(-1, K, J)
        hop1_BK = scores_BKJ.mean(-1)
        hop2_BKJ = scores_BKJ - hop1_BK[:, :, None]
        path_BM = torch.arange(K * J).expand(len(hop1_BK), -1)
        token_logp_BMT = reader.token_logp(batch).view(*path_BM.shape, -1)
        return listed_chain_nll(token_logp_BMT, hop1_BK, hop2_BKJ, path_BM, batch.target_mask_BT, prior="global").sum()

    return loss


def rag_default(reader: Generator) -> Step:
    return transformers_rag(reader, PADDED)


def rag_longest(reader: Generator) -> Step:
    return transformers_rag(reader, 0)


def transformers_rag(reader: Generator, least: int) -> Step:
    """transformers' RAG around the same reader; prompts padded to the longest, and to ``least`` tokens at least."""
    dpr = hf.DPRConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    pad, end = reader.tokenizer.pad, reader.tokenizer.eos
    config = hf.RagConfig.from_question_encoder_generator_configs(
        dpr, reader.model.config, n_docs=K, pad_token_id=pad, bos_token_id=reader.tokenizer.bos, eos_token_id=end,
        decoder_start_token_id=end, vocab_size=VOCABULARY, is_encoder_decoder=True,
    )  # fmt: skip
    rag = hf.RagSequenceForGeneration(
        config=config, question_encoder=hf.DPRQuestionEncoder(dpr), generator=reader.model
    ).train()

    def loss(batch: ReaderBatch) -> Tensor:
        assert batch.targets_NT is not None
        more = (0, max(0, least - batch.input_ids_NL.shape[1]))
        labels_BT = batch.targets_NT[::K].masked_fill(batch.targets_NT[::K] == IGNORE, pad)
        labels_BT = nn.functional.pad(labels_BT, (1, 0), value=end)  # label t + 1 is scored by logit t
        return rag(
            context_input_ids=nn.functional.pad(batch.input_ids_NL, more, value=pad),
            context_attention_mask=nn.functional.pad(batch.attention_mask_NL, more),
            doc_scores=scores(batch),
            decoder_input_ids=labels_BT,
            labels=labels_BT,
            reduce_loss=True,
        ).loss

    return loss


def all_logits(reader: Generator) -> Step:
    """The decoder-only marginal as it is usually written: the model's logits, their log-softmax, the labels'."""

    def loss(batch: ReaderBatch) -> Tensor:
        assert batch.targets_NT is not None
        assert batch.target_positions_NT is not None
        scores_BK = scores(batch)
        wanted_NT = batch.targets_NT != IGNORE
        rows_M = wanted_NT.nonzero()[:, 0]
        labels_NL = torch.full_like(batch.input_ids_NL, IGNORE)
        labels_NL[rows_M, batch.target_positions_NT[wanted_NT]] = batch.targets_NT[wanted_NT]
        logits_NLV = reader.model(
            input_ids=batch.input_ids_NL, attention_mask=batch.attention_mask_NL, use_cache=False
        ).logits
        logp_NL = logits_NLV.log_softmax(-1).gather(-1, labels_NL.clamp(min=0)[..., None])[..., 0]
        answer_BK = torch.where(labels_NL != IGNORE, logp_NL, 0.0).sum(-1).view_as(scores_BK)
        return -(doc_logprior(scores_BK) + answer_BK).logsumexp(-1).sum()

    return loss


def scores(batch: ReaderBatch) -> Tensor:
    """Retrieval scores of all rows, [B, K], with a gradient; the same for every side."""
    shape = len(batch.input_ids_NL) // batch.per_question, batch.per_question
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


@dataclass(frozen=True)
class Variant:
    """One way to compute a step.

    Attributes:
        family: of the ladder's generators.
        make: the step of a reader.
        questions, rows, hops: what :meth:`Questions.batch` packs.
        memory: what scoring keeps for backward.
    """

    family: str
    make: Callable[[Generator], Step]
    questions: int = QUESTIONS
    rows: int = K
    hops: int = 1
    memory: Memory = field(default_factory=Memory)

    def reader(self, tokenizer: Path) -> Generator:
        context = PADDED if self.family == "bart" else PADDED + ANSWER
        if self.hops > 1:
            context *= 2
        options = Ladder(family=self.family, size="s5", vocab_size=VOCABULARY, context=context)
        reader = options.create(tokenizer, seed=0)
        reader.train().keep(self.memory)
        return reader


SPARING = Memory(microbatch_tokens=1024, projection_mb=0)
VARIANTS = {
    "bart, ours": Variant("bart", ours),
    "bart, transformers, padded to 300": Variant("bart", rag_default),
    "bart, transformers, to the longest": Variant("bart", rag_longest),
    "bart, ours, checkpointing": Variant("bart", ours, memory=Memory(gradient_checkpointing=True)),
    "bart, ours, microbatches": Variant("bart", ours, memory=SPARING),
    "bart, ours, microbatches, K=50": Variant("bart", ours, rows=50, memory=SPARING),
    "llama, ours": Variant("llama", ours),
    "llama, all logits": Variant("llama", all_logits),
    "llama, ours, microbatches": Variant("llama", ours, memory=SPARING),
    "bart, one hop, 25 rows": Variant("bart", ours, CHAIN_QUESTIONS, K * J, hops=2),
    "bart, chain, 5 x 5": Variant("bart", chain, CHAIN_QUESTIONS, K * J, hops=2),
}


class Bench:
    """Runs variants and compares what they cost; ``missed`` counts goals that were not reached."""

    def __init__(self, options: argparse.Namespace, tokenizer: Path):
        self.options, self.tokenizer, self.missed = options, tokenizer, 0
        self.data = Questions(options.data)

    def time(self, *names: str) -> dict[str, tuple[float, float]]:
        """Median wall and CPU seconds of each variant; all of one reader."""
        variants = {name: VARIANTS[name] for name in names}
        first = variants[names[0]]
        reader = first.reader(self.tokenizer)
        steps = {name: variant.make(reader) for name, variant in variants.items()}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for round_ in range(self.options.rounds + 1):
            batch = self.data.batch(reader, round_, first.questions, first.rows, first.hops)
            losses = []
            for name, step in steps.items():
                reader.zero_grad()
                wall, cpu = time.perf_counter(), time.process_time()
                loss = step(batch)
                loss.backward()
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
                losses.append(float(loss.detach()))
            if max(losses) - min(losses) > 1e-4 * abs(losses[0]):
                sys.exit(f"the sides do not compute the same loss: {losses}; their times cannot be compared.")
            lengths = sorted(batch.lengths_N.tolist())
            print(
                f"round {round_}: {len(lengths)} rows of {lengths[0]} to {lengths[-1]} tokens, mean "
                f"{statistics.mean(lengths):.0f}; loss " + ", ".join(f"{loss:.4f}" for loss in losses),
                flush=True,
            )
        median = {}
        for name, found in taken.items():
            wall, cpu = (statistics.median(seconds) for seconds in zip(*found[1:], strict=True))
            median[name] = wall, cpu
            print(f"{name:36} {wall:7.2f} s wall {cpu:7.2f} s CPU")
        return median

    def peak(self, name: str) -> float:
        """MB that one step of a variant adds to a fresh process at its peak."""
        command = [sys.executable, __file__, "--data", str(self.options.data), "--threads", str(self.options.threads)]
        command += ["--variant", name, "--tokenizer", str(self.tokenizer)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:36} {found['peak']:7,.0f} MB beside {found['loaded']:,.0f} MB loaded; {found['seconds']:.1f} s, "
            f"loss {found['loss']:.4f}",
            flush=True,
        )
        return found["peak"]

    def goal(self, what: str, value: float, least: float = 0.0, most: float = float("inf")) -> None:
        reached = least <= value <= most
        bound = f"at least {least:g}" if least else f"at most {most:.3g}"
        print(f"  {what}: {value:.2f} (goal: {bound}): {'met' if reached else 'MISSED'}", flush=True)
        self.missed += not reached

    def faster(self, took: dict[str, tuple[float, float]], than: str, name: str, least: float) -> None:
        for which, clock in enumerate(("wall", "CPU")):
            self.goal(f"{than} / {name}, {clock} time", took[than][which] / took[name][which], least=least)

    def seq2seq(self) -> None:
        name, default, longest = list(VARIANTS)[:3]
        took = self.time(name, default, longest)
        self.faster(took, default, name, 2.3)
        self.faster(took, longest, name, 1.2)

    def decoder(self) -> None:
        took = self.time("llama, ours", "llama, all logits")
        self.faster(took, "llama, all logits", "llama, ours", 1.5)

    def memory(self) -> None:
        name, default, longest, *sparing = list(VARIANTS)[:5]
        most = self.peak(default)
        self.peak(longest)
        self.goal("ours / transformers, padded to 300", self.peak(name) / most, most=1 / 3)
        for other in sparing:
            self.goal(f"{other} / transformers, padded to 300", self.peak(other) / most, most=1 / 3)
        most = self.peak("llama, all logits")
        self.goal("ours / all logits", self.peak("llama, ours") / most, most=1 / 5)
        self.peak("llama, ours, microbatches")

    def passages(self) -> None:
        few, many = (self.peak(f"bart, ours, microbatches{k}") for k in ("", ", K=50"))
        self.goal("K=50 / K=5", many / few, most=1.15)

    def chain(self) -> None:
        took = self.time("bart, one hop, 25 rows", "bart, chain, 5 x 5")
        for which, clock in enumerate(("wall", "CPU")):
            ratio = took["bart, chain, 5 x 5"][which] / took["bart, one hop, 25 rows"][which]
            self.goal(f"chain / one hop, {clock} time", ratio, most=1.3)


PARTS = ("seq2seq", "decoder", "memory", "passages", "chain")


def measure(options: argparse.Namespace) -> None:
    """One step of one variant in this process; prints JSON: MB loaded, MB at the peak beside them, seconds, loss."""
    variant = VARIANTS[options.variant]
    reader = variant.reader(options.tokenizer)
    batch = Questions(options.data).batch(reader, 0, variant.questions, variant.rows, variant.hops)
    step = variant.make(reader)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's record of the peak starts again
    loaded, start = resident("VmRSS"), time.perf_counter()
    loss = step(batch)
    loss.backward()
    found = {"loaded": loaded, "peak": resident("VmHWM") - loaded, "seconds": time.perf_counter() - start}
    print(json.dumps(found | {"loss": float(loss.detach())}))


def resident(which: str) -> float:
    """MB of this process, by the kernel's count."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[which].split()[0]) / 1_000


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.open(encoding="utf-8")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nq-open-gold"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.variant:
        measure(options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        train_bpe((f"{p['title']}\n{p['text']}" for p in bench.data.passages), VOCABULARY, Path(folder))
        for part in options.only:
            print(f"{part}:", flush=True)
            getattr(bench, part)()
    return 1 if bench.missed else 0


if __name__ == "__main__":
    sys.exit(main())
