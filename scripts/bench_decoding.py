"""Decoding against transformers' own: time, and the same answers.

    python scripts/bench_decoding.py [--data ../shared/data/nq-open-gold] [--rounds 2] [--threads 1] [--only bart]

Sixteen real questions with five real passages each, random weights over 50,265 tokens, four beams, at most 20 tokens:

* bart: RAG-Sequence thorough decoding of a BART of width 256 and 3+3 layers, against RagSequenceForGeneration;
* llama: beams of each of the 80 prompts by a Llama of width 256 and 6 layers, against its ``generate``.

Prompts are of one length: transformers' beams of a BART attend to padding, so that with padding the two would not
write the same. Both sides run in turn; the ratios are of the least times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers as hf

from rag_exp.data.tokenizer import TextTokenizer, train_bpe
from rag_exp.models.decoding.beam import Search, beam_search
from rag_exp.models.decoding.sequence import fast, thorough
from rag_exp.models.marginalize import doc_logprior
from rag_exp.models.packing import ReaderBatch
from rag_exp.models.reader import Generator

VOCABULARY, BEGIN, PAD, END = 50_265, 0, 1, 2
QUESTIONS, K, LENGTH, BEAM, NEW = 16, 5, 96, 4, 20


def prompts(data: Path) -> torch.Tensor:
    """Question, its gold passage or one of the four after it; the first LENGTH tokens of each."""
    passages = [json.loads(line) for line in (data / "passages.jsonl").open()]
    place = {passage["id"]: i for i, passage in enumerate(passages)}
    texts = []
    for line in (data / "dev.jsonl").open():
        question = json.loads(line)
        gold = place[question["positive_passage_ids"][0]]
        read = [passages[(gold + k) % len(passages)]["text"] for k in range(K)]
        texts.append([f"{question['question']}\n{text}" for text in read])
    with tempfile.TemporaryDirectory() as folder:
        train_bpe([passage["text"] for passage in passages], VOCABULARY, Path(folder))
        tokenizer = TextTokenizer.load(Path(folder))
    found: list[list[list[int]]] = []
    for four in texts:
        ids = tokenizer.encode(four)
        if min(map(len, ids)) >= LENGTH and len(found) < QUESTIONS:
            found.append([row[:LENGTH] for row in ids])
    assert len(found) == QUESTIONS, f"{data}: too few questions with passages that long"
    return torch.tensor(found).flatten(0, 1)


def rag_model() -> Any:
    """transformers' RAG around a random BART whose answers end somewhere."""
    torch.manual_seed(0)
    bart = hf.BartConfig(
        vocab_size=VOCABULARY, d_model=256, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=1024, decoder_ffn_dim=1024, max_position_embeddings=512,
        init_std=0.08, pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END, decoder_start_token_id=END,
        forced_eos_token_id=None,
    )  # fmt: skip
    dpr = hf.DPRConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = hf.RagConfig.from_question_encoder_generator_configs(
        dpr, bart, n_docs=K, pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END, decoder_start_token_id=END,
        vocab_size=VOCABULARY, is_encoder_decoder=True,
    )  # fmt: skip
    reader = hf.BartForConditionalGeneration(bart)
    reader.generation_config.forced_bos_token_id = BEGIN
    with torch.no_grad():
        reader.final_logits_bias[0, [BEGIN, PAD]] = -1e3
        reader.final_logits_bias[0, END] = 2.0
    return hf.RagSequenceForGeneration(
        config=config, question_encoder=hf.DPRQuestionEncoder(dpr), generator=reader
    ).eval()


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and CPU seconds, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compared(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Let each side work in turn; print how much faster the others are than the first; their last results."""
    least = dict.fromkeys(sides, (float("inf"), float("inf")))
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in sides.items():
            wall, cpu, results[name] = timed(work)
            least[name] = (min(least[name][0], wall), min(least[name][1], cpu))
            print(f"{name:13} {wall:7.2f} s wall {cpu:7.2f} s CPU", flush=True)
    first, *others = sides
    for name in others:
        wall, cpu = (a / b for a, b in zip(least[first], least[name], strict=True))
        print(f"{name}: {wall:.2f} times faster in wall time, {cpu:.2f} in CPU time")
    return results


def packed(ids_NL: torch.Tensor, seq2seq: bool) -> ReaderBatch:
    none, lengths = np.zeros(len(ids_NL), np.int64), np.full(len(ids_NL), LENGTH)
    ones, lengths_N = torch.ones_like(ids_NL), torch.from_numpy(lengths)
    return ReaderBatch(ids_NL, ones, lengths_N, None, None, seq2seq, K, lengths, none, none, none)


def written(ids: torch.Tensor) -> list[list[int]]:
    return [[y for y in row if y not in (BEGIN, PAD, END)] for row in ids.tolist()]


def bart(ids_NL: torch.Tensor, rounds: int) -> None:
    """Thorough decoding: sixteen answers."""
    rag, batch = rag_model(), packed(ids_NL, seq2seq=True)
    reader = Generator(rag.rag.generator, SimpleNamespace(eos=END, pad=PAD), 512, seq2seq=True).eval()
    scores_BK = torch.randn(QUESTIONS, K, generator=torch.Generator().manual_seed(1))
    prior_BK, search = doc_logprior(scores_BK), Search(NEW, BEAM)
    sides: dict[str, Callable[[], Any]] = {
        "transformers": lambda: rag.generate(
            context_input_ids=ids_NL, context_attention_mask=batch.attention_mask_NL, doc_scores=scores_BK,
            num_beams=BEAM, num_return_sequences=1, do_deduplication=True, max_new_tokens=NEW + 1,
            length_penalty=0.0, early_stopping="never", do_sample=False,
        ),
        "thorough": lambda: thorough(reader, batch, prior_BK, search),
        "fast": lambda: fast(reader, batch, prior_BK, search),
    }  # fmt: skip
    results = compared(sides, rounds)
    ours = results["thorough"]
    same = sum(a == b for a, b in zip(ours.best, written(results["transformers"]), strict=True))
    candidates = sum(map(len, ours.candidates)) / QUESTIONS
    tokens = sum(len(ids) for ranked in ours.candidates for ids, _ in ranked) / (candidates * QUESTIONS)
    print(f"same answers: {same} of {QUESTIONS}; {candidates:.1f} candidates a question of {tokens:.1f} tokens")
    print(f"fast differs from thorough: {sum(a != b for a, b in zip(ours.best, ours.fast, strict=True))}")


def llama(ids_NL: torch.Tensor, rounds: int) -> None:
    """Beams of a decoder-only model: eighty answers."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, initializer_range=0.08, tie_word_embeddings=True,
        pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END,
    )  # fmt: skip
    model, batch = hf.LlamaForCausalLM(config).eval(), packed(ids_NL, seq2seq=False)
    reader = Generator(model, SimpleNamespace(eos=END, pad=PAD), 512, seq2seq=False).eval()
    sides: dict[str, Callable[[], Any]] = {
        "transformers": lambda: model.generate(
            ids_NL, attention_mask=batch.attention_mask_NL, num_beams=BEAM, num_return_sequences=1,
            max_new_tokens=NEW, length_penalty=0.0, early_stopping="never", do_sample=False,
        ),
        "beams": lambda: beam_search(reader, batch, Search(NEW, BEAM)),
    }  # fmt: skip
    results = compared(sides, rounds)
    theirs, ours = written(results["transformers"][:, LENGTH:]), results["beams"].best
    print(f"same answers: {sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}", end="; ")
    print(f"{sum(map(len, ours)) / len(ours):.1f} tokens each")


def main() -> None:
    benches = {"bart": bart, "llama": llama}
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data/nq-open-gold"))
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--only", choices=list(benches))
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    ids_NL = prompts(given.data)
    for name in [given.only] if given.only else benches:
        print(f"{name}: {benches[name].__doc__}")
        benches[name](ids_NL, given.rounds)


if __name__ == "__main__":
    main()
