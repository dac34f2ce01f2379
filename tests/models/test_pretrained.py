"""Checkpoints of transformers: tiny real ones, saved to disk here, described without torch and read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

from rag_exp.core.errors import DataError
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.models.packing import IGNORE, Packer
from rag_exp.models.pretrained import Pretrained
from rag_exp.models.prompt import PromptOptions

SPECIAL = {"vocab_size": 336, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
KINDS = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=96, **SPECIAL)),
    "llama": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=128, tie_word_embeddings=False, **SPECIAL,
        )
    ),
    "llama-tied": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=128, tie_word_embeddings=True, **SPECIAL,
        )
    ),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(
            d_model=32, d_kv=16, d_ff=48, num_layers=2, num_decoder_layers=1, num_heads=4, decoder_start_token_id=0,
            **{**SPECIAL, "bos_token_id": None},
        )
    ),
    "bart": lambda: hf.BartForConditionalGeneration(
        hf.BartConfig(
            d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=4,
            encoder_ffn_dim=48, decoder_ffn_dim=64, max_position_embeddings=112, decoder_start_token_id=2,
            **SPECIAL,
        )
    ),
}  # fmt: skip


def save(kind: str, folder: Path, vocabulary: Path) -> Path:
    torch.manual_seed(len(kind))
    model = KINDS[kind]()
    if kind == "bart":
        model.generation_config.forced_bos_token_id = 1  # as the published ones have
    model.save_pretrained(folder)
    hf.PreTrainedTokenizerFast(
        tokenizer_file=str(vocabulary / "tokenizer.json"), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> dict[str, Path]:
    return {kind: save(kind, tmp_path_factory.mktemp(kind), vocabulary) for kind in KINDS}


@pytest.fixture(params=list(KINDS))
def options(request, checkpoints) -> Pretrained:
    return Pretrained(name=str(checkpoints[request.param]))


def test_described_sizes_equal_the_loaded_model(options):
    assert options.problems() == []
    model = options.create(None, 0).model
    counts = options.parameter_counts()
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert "other" not in counts
    embedding = model.get_input_embeddings().weight.numel()
    head = 0 if model.config.tie_word_embeddings else embedding
    table = [p.numel() for n, p in model.named_parameters() if "wpe" in n or "embed_positions" in n]
    assert options.non_embedding() == sum(counts.values()) - embedding - head - sum(table)


def test_described_shape(checkpoints):
    shapes = {}
    for kind, folder in checkpoints.items():
        options = Pretrained(name=str(folder))
        sizes = options.sizes()
        shapes[kind] = (sizes.layers, sizes.encoder_layers, sizes.attention_width, sizes.width, sizes.vocab)
        assert sizes.body + sizes.encoder_body == options.non_embedding()
    assert shapes == {
        "gpt2": (2, 0, 32, 32, 336),
        "llama": (3, 0, 64, 32, 336),
        "llama-tied": (1, 0, 32, 32, 336),
        "t5": (1, 2, 64, 32, 336),
        "bart": (2, 1, 32, 32, 336),
    }
    contexts = {kind: Pretrained(name=str(folder)).context_length() for kind, folder in checkpoints.items()}
    assert contexts == {"gpt2": 96, "llama": 128, "llama-tied": 128, "t5": 512, "bart": 112}


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_share_equals_the_built_encoder(kind, checkpoints):
    options = Pretrained(name=str(checkpoints[kind]))
    named = dict(options.create(None, 0).model.named_parameters())
    encoder = sum(p.numel() for n, p in named.items() if "encoder." in n and "decoder." not in n and "embed" not in n)
    encoder += sum(p.numel() for n, p in named.items() if "encoder.layernorm_embedding" in n)
    cross = [n for n in named if "EncDecAttention" in n or "encoder_attn." in n]
    keys_values = sum(named[n].numel() for n in cross if n.split(".")[-2] in ("k", "v", "k_proj", "v_proj"))
    assert options.sizes().encoder_body == encoder + keys_values


def test_scores_equal_the_plain_model(options):
    generator = options.create(None, 0).eval()
    packer = Packer(generator.tokenizer, PromptOptions(max_answer_tokens=8), generator.context, generator.seq2seq)
    answers = [[10, 11, 12], [13]]
    batch = packer.pack([[5, 6], [7]], [[([20], [21, 22]), ([], [23] * 9)]] * 2, answers)
    with torch.no_grad():
        logp_NT = generator.token_logp(batch)
        for n, row in enumerate(batch.input_ids_NL):
            ids = row[batch.attention_mask_NL[n].bool()][None]
            target = batch.targets_NT[n][batch.targets_NT[n] != IGNORE]
            if generator.seq2seq:
                fed = torch.tensor([[*generator.decoder_start, *target[:-1]]])
                logits_TV = generator.model(input_ids=ids, decoder_input_ids=fed).logits[0, -len(target) :]
            else:
                logits_TV = generator.model(input_ids=ids).logits[0, -len(target) :]
            expected = torch.log_softmax(logits_TV, -1).gather(1, target[:, None])[:, 0]
            torch.testing.assert_close(logp_NT[n, : len(target)], expected, rtol=1e-4, atol=1e-5)


def test_decoder_start_follows_the_checkpoint(checkpoints):
    """BART's checkpoints force their begin token first: targets come after it."""
    start = {k: Pretrained(name=str(f)).create(None, 0).decoder_start for k, f in checkpoints.items()}
    assert start == {"gpt2": [], "llama": [], "llama-tied": [], "t5": [0], "bart": [2, 1]}


def test_trained_weights_come_back(options, tmp_path):
    generator = options.create(None, 0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.5)
    generator.save(tmp_path)
    loaded = options.load(tmp_path, None)
    for (name, a), (_, b) in zip(generator.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert loaded.decoder_start == generator.decoder_start
    assert not list(tmp_path.glob("*.bin"))
    with pytest.raises(DataError, match="no generator weights there"):
        options.load(tmp_path / "nowhere", None)


def test_dtype(checkpoints):
    generator = Pretrained(name=str(checkpoints["llama"]), dtype="bfloat16").create(None, 0)
    assert {p.dtype for p in generator.parameters()} == {torch.bfloat16}


def test_context_can_be_lowered_not_raised(checkpoints):
    name = str(checkpoints["gpt2"])
    assert Pretrained(name=name, context=64).context_length() == 64
    assert Pretrained(name=name, context=64).problems() == []
    (problem,) = Pretrained(name=name, context=128).problems()
    assert problem == f"generator.context: 128 is more than the 96 tokens that {name} allows."


def test_identity_is_content_and_not_path(checkpoints, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoints["llama"], copy)
    digests = ContentDigests()
    first = Pretrained(name=str(checkpoints["llama"])).content(digests)
    assert Pretrained(name=str(copy)).content(digests) == first
    assert str(checkpoints["llama"]) not in json.dumps(first)
    (copy / "README.md").write_text("nothing that counts")
    assert Pretrained(name=str(copy)).content(digests) == first
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    assert Pretrained(name=str(copy)).content(digests) != first


def test_problems_of_folders(checkpoints, tmp_path):
    (missing,) = Pretrained(name="./nowhere").problems()
    assert missing.startswith("generator.name: ./nowhere: no such folder")
    (empty,) = Pretrained(name=str(tmp_path)).problems()
    assert "no config.json there" in empty
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (gguf,) = Pretrained(name=str(tmp_path)).problems()
    assert gguf.endswith(f"To read the GGUF file, give the file itself: {tmp_path / 'model.gguf'}")
    shutil.copy(checkpoints["gpt2"] / "config.json", tmp_path)
    (unweighted,) = Pretrained(name=str(tmp_path)).problems()
    assert "no *.safetensors there" in unweighted
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    (broken,) = Pretrained(name=str(tmp_path)).problems()
    assert "not a readable safetensors file" in broken
    shutil.copy(checkpoints["gpt2"] / "model.safetensors", tmp_path)
    (wordless,) = Pretrained(name=str(tmp_path)).problems()
    assert "no tokenizer.json" in wordless


def test_a_checkpoint_that_lacks_weights_is_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "short"
    shutil.copytree(checkpoints["llama"], folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lack 1 tensors, such as model.layers.1.mlp.up_proj.weight"):
        Pretrained(name=str(folder)).create(None, 0)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty local hub cache on a machine that is offline."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_hub_name_from_the_local_cache(hub, checkpoints):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub / "models--some--reader"
    shutil.copytree(checkpoints["llama"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    options = Pretrained(name="some/reader")
    assert options.problems() == []
    assert options.content(ContentDigests()) == {"name": "some/reader", "revision": commit}
    assert Pretrained(name="some/reader", revision=commit).content(ContentDigests())["revision"] == commit
    assert options.parameter_counts() == Pretrained(name=str(checkpoints["llama"])).parameter_counts()
    assert options.create(None, 0).context == 128


def test_hub_name_that_cannot_be_had(hub):
    (problem,) = Pretrained(name="some/reader", revision="v2").problems()
    assert problem.startswith("generator.name: some/reader at revision v2: not a folder, not in the local hub cache")
    (impossible,) = Pretrained(name="no spaces/please").problems()
    assert "neither a folder nor a possible name on the hub" in impossible


def test_sizes_are_known_without_torch(checkpoints):
    code = (
        "import sys; from rag_exp.models.pretrained import Pretrained; p = Pretrained(name=sys.argv[1]);"
        "p.parameter_counts(); p.sizes(); p.context_length(); assert not p.problems();"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(checkpoints["bart"])]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
