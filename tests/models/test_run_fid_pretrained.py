"""Fusion in the decoder on pretrained checkpoints, end to end: fine-tuned, scored and written as transformers would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import transformers as hf
from transformers.modeling_outputs import BaseModelOutput

from rag_exp import cli
from rag_exp.core.record import read_record
from rag_exp.data.passages import PassageTable
from rag_exp.evaluation.predictions import read_predictions
from rag_exp.models.packing import Packer
from rag_exp.models.pretrained import Pretrained
from rag_exp.models.prompt import PromptOptions
from rag_exp.show import artifact_folder

SIZES = {"d_model": 32, "vocab_size": 320, "pad_token_id": 0, "eos_token_id": 2}
BEAM, LONGEST = 3, 6


def saved(family: str, folder: Path, vocabulary: Path) -> Path:
    """A random checkpoint as ``save_pretrained`` leaves it, with a fast tokenizer."""
    torch.manual_seed(0)
    if family == "t5":
        config = hf.T5Config(d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0, **SIZES)
        model = hf.T5ForConditionalGeneration(config)
    else:
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        widths = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
        start = {"bos_token_id": 1, "decoder_start_token_id": 2}
        model = hf.BartForConditionalGeneration(
            hf.BartConfig(max_position_embeddings=160, dropout=0.0, **heads, **widths, **start, **SIZES)
        )
        model.generation_config.forced_bos_token_id = 1
        model.generation_config.forced_eos_token_id = None  # an answer that is cut off has no end
    model.save_pretrained(folder)
    tokenizer = str(vocabulary / "tokenizer.json")
    hf.PreTrainedTokenizerFast(
        tokenizer_file=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_run_on_a_saved_checkpoint(family, tmp_path, vocabulary):
    source = saved(family, tmp_path / "checkpoint", vocabulary)
    record, rows, folders = finished(
        tmp_path, "debug=tiny", "generator=pretrained", "~generator.size", f"generator.name={source}", "objective=fid",
        "training.warmup.steps=25", "training.warmup.batch_size=4", "training.warmup.lr=0.02", "training.lr=0.01",
        "evaluation.questions=4",
        "evaluation.decode=beam", f"evaluation.beam={BEAM}", f"evaluation.max_new_tokens={LONGEST}",
    )  # fmt: skip
    assert record.sizes["N"] == Pretrained(name=str(source)).non_embedding()
    assert all(record.metrics[name] is not None for name in ("nll", "em", "f1", "gold_recall@k"))
    assert record.nulls["posterior_on_gold"] == "the passages are read jointly"
    before = hf.AutoModelForSeq2SeqLM.from_pretrained(source)
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(folders["checkpoint"]).eval()
    assert not torch.equal(before.get_encoder().embed_tokens.weight, model.get_encoder().embed_tokens.weight)
    reader = Pretrained(name=str(source)).load(folders["checkpoint"], None)
    packer = Packer(reader.tokenizer, PromptOptions(), reader.context, True)
    tokenizer = hf.AutoTokenizer.from_pretrained(source)
    passages = PassageTable.open(folders["passages"])
    written = set()
    for row in rows:
        states = fused(model, packer, row["question"], passages.texts(row["rows"]))
        start = reader.decoder_start
        answer = [*packer.tokens([row["target"]], "answer")[0], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(encoder_outputs=states, decoder_input_ids=torch.tensor([[*start, *answer[:-1]]])).logits
        logp = logits[0, len(start) - 1 :].log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])
        assert row["nll"] == pytest.approx(-float(logp.sum()), abs=1e-3)
        ids = model.generate(
            encoder_outputs=states, num_beams=BEAM, num_return_sequences=BEAM, do_sample=False, length_penalty=0.0,
            early_stopping="never", max_new_tokens=LONGEST + len(start) - 1,
        )  # fmt: skip
        assert row["candidates"] == tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert row["prediction"] == row["candidates"][0]
        written.update(row["candidates"])
    assert written != {""}


def fused(model, packer, question, texts) -> BaseModelOutput:
    """The states of each passage's prompt, encoded by itself, one behind the other."""
    asked, states = packer.tokens([question], "question"), []
    for title, text in texts:
        prompt = packer.pack(asked, [[(packer.tokens([title], "title")[0], packer.tokens([text], "text")[0])]])
        with torch.no_grad():
            states.append(model.get_encoder()(input_ids=prompt.input_ids_NL).last_hidden_state)
    return BaseModelOutput(last_hidden_state=torch.cat(states, dim=1))


def finished(folder: Path, *overrides: str):
    """The record of a run in ``folder``, its predictions, and the folders of its artifacts."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert cli.main(["run", *overrides]) == 0
    finally:
        os.chdir(before)
    (file,) = folder.glob("outputs/runs/*/record.json")
    record = read_record(file)
    roles = ("evaluation", "checkpoint", "passages")
    folders = {role: artifact_folder(folder / "outputs", record, role) for role in roles}
    return record, read_predictions(folders["evaluation"]).to_pylist(), folders
