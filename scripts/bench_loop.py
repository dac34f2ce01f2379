"""What the training loop costs over a bare PyTorch loop: the same model, batches and optimiser, side by side.

    python scripts/bench_loop.py [--size s2] [--steps 60] [--rounds 3]

Both loops make their batches (32 questions x 4 passages of the CIA World Factbook), score, marginalise,
backpropagate, clip and step. The product's loop has all that a run has: Lightning, per-step seeds,
finite-loss checks, counters, a checkpoint. Rounds alternate; the medians' ratios are printed: of wall time,
and of CPU time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from rag_exp.data.factbook import FactbookCorpus, FactbookQuestions
from rag_exp.data.passages import PassageTable, Whole, write_passages
from rag_exp.data.questions import QuestionTable, write_questions
from rag_exp.data.tokenizer import train_bpe
from rag_exp.evaluation.arms import random_result
from rag_exp.models.ladder import Ladder
from rag_exp.models.marginalize import doc_logprior, rag_sequence_nll
from rag_exp.models.objectives import RagSequence
from rag_exp.models.packing import Packer
from rag_exp.models.prompt import PromptOptions
from rag_exp.models.reader import Generator
from rag_exp.training.loop import Stage, fit_stage
from rag_exp.training.options import OptimOptions, TrainerOptions
from rag_exp.training.order import BatchOrder
from rag_exp.training.reading import StageData
from rag_exp.training.schedule import build_optimizer, lr_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="s2", help="ladder size (default: s2, the quickstart's middle model)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--k", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        options, data = prepare(root, given.size, given.k)
        fresh = lambda: options.create(root / "tokenizer", 0)  # noqa: E731
        bare_loop(fresh(), data, 3, given.batch)  # warms caches of tokens and kernels for both
        wall: dict[str, list[float]] = {"bare": [], "rag_exp": []}
        cpu: dict[str, list[float]] = {"bare": [], "rag_exp": []}
        for turn in range(given.rounds):
            for kind in ("bare", "rag_exp") if turn % 2 == 0 else ("rag_exp", "bare"):
                model, start, start_cpu = fresh(), time.perf_counter(), time.process_time()
                if kind == "bare":
                    bare_loop(model, data, given.steps, given.batch)
                else:
                    product_loop(model, options, data, given.steps, given.batch, root / f"partial{turn}")
                wall[kind].append((time.perf_counter() - start) / given.steps)
                cpu[kind].append((time.process_time() - start_cpu) / given.steps)
    shape = f"{given.batch} x {given.k}, {given.steps} steps x {given.rounds}"
    print(f"{given.size}, {shape}, torch threads: {torch.get_num_threads()}")
    for name, seconds in (("wall", wall), ("CPU", cpu)):
        bare, ours = statistics.median(seconds["bare"]), statistics.median(seconds["rag_exp"])
        print(
            f"{name:4} a step: bare PyTorch {bare * 1e3:.1f} ms, rag_exp {ours * 1e3:.1f} ms, ratio {ours / bare:.3f}"
        )


def prepare(root: Path, size: str, k: int) -> tuple[Ladder, StageData]:
    """The Factbook's passages, questions and vocabulary, and random passages to read (which ones costs the same)."""
    for name in ("passages", "questions", "tokenizer"):
        (root / name).mkdir()
    write_passages(FactbookCorpus(), Whole(), root / "passages")
    table = PassageTable.open(root / "passages")
    write_questions(FactbookQuestions(), table, root / "questions")
    train_bpe((f"{t}\n{x}" for _, batch in table.batches() for t, x in batch), 4096, root / "tokenizer")
    questions = QuestionTable.open(root / "questions", "train", 2000)
    options = Ladder(size=size)
    reader = options.create(root / "tokenizer", 0)
    packer = Packer(reader.tokenizer, PromptOptions(), reader.context, reader.seq2seq)
    topk = random_result(questions.ids, k, len(table), 0)
    return options, StageData.retrieved(packer, questions, table, topk)


def bare_loop(model: Generator, data: StageData, steps: int, batch: int) -> None:
    """What one would write by hand."""
    optim = OptimOptions()
    optimizer = build_optimizer(model.parameters(), optim, optim.lr)
    order = BatchOrder(data.lengths, batch, 0, bucket=8)
    model.train()
    for step in range(steps):
        reading = data.reading(step, order.batch(step))
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, steps, optim, optim.lr)
        logp_NT = model.token_logp(reading.reader)
        logp_BKT = logp_NT.view(batch, -1, logp_NT.shape[-1])
        prior_BK = doc_logprior(reading.scores_BK, reading.mask_BK)
        loss = rag_sequence_nll(logp_BKT, prior_BK, reading.reader.target_mask_BT).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.grad_clip)
        optimizer.step()


def product_loop(model: Generator, options: Ladder, data: StageData, steps: int, batch: int, partial: Path) -> None:
    """What a run does."""
    optim = OptimOptions()
    stage = Stage("marginal", steps, batch, optim.lr, seed=0, bucket=8)
    trainer = TrainerOptions(accelerator="cpu", checkpoint_every=max(1, steps // 2))
    fit_stage(stage, model, RagSequence(), data, optim, options.sizes(), trainer, partial)


if __name__ == "__main__":
    main()
