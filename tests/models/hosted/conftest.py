"""A tiny model saved to a folder, and a loopback server that answers with it in OpenAI's wire format."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TEXTS = [
    "Which river is Town 3 on? Town 3 lies on the river R21 and is old and is old",
    "Answer the question with a few words. Passage: Town 4. Question: Answer: R4",
    "Two and two is four",
]
NAME = "tiny"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a byte-level vocabulary, as ``save_pretrained`` writes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from rag_exp.data.tokenizer import train_bpe

    folder = tmp_path_factory.mktemp("tiny")
    train_bpe(TEXTS, 340, folder)
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=340, max_position_embeddings=1024, initializer_range=0.3, **sizes, **ids)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Served:
    """The model behind the wire, and what a test may change or look at.

    Attributes:
        asked: (path, body, Authorization header) of each request.
        failures: (status, headers) with which the next requests are answered.
        echoes, scores_prompts: whether ``echo`` and ``prompt_logprobs`` are honoured or ignored.
    """

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.asked: list[tuple[str, Any, str | None]] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.echoes, self.scores_prompts = True, False
        self.url = getattr(self, "url", "")

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] != NAME:
            return 404, {"error": {"message": f"The model {body['model']!r} does not exist"}}
        if path != "/v1/completions":
            return 404, {"detail": "Not Found"}
        ids = [1, *self.tokenizer(body["prompt"], add_special_tokens=False).input_ids]
        most = body["max_tokens"]
        with self.lock, self.torch.no_grad():
            out = self.model.generate(
                self.torch.tensor([ids]), max_new_tokens=most, do_sample=False, pad_token_id=0,
                attention_mask=self.torch.ones(1, len(ids), dtype=self.torch.long),
            )[0].tolist()  # fmt: skip
            logp = self.model(self.torch.tensor([out])).logits[0].double().log_softmax(-1)
        new = out[len(ids) :]
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "length" if new[-1] != 2 else "stop"}
        values = [float(logp[i - 1, out[i]]) for i in range(1, len(out))]
        words = [self.tokenizer.decode([i]) for i in out[1:]]
        begin = 0 if body.get("echo") and self.echoes else len(ids) - 1
        if body.get("logprobs") is not None and self.echoes:
            offsets = [len(self.tokenizer.decode(out[1:i])) for i in range(1, len(out))]
            choice["logprobs"] = {
                "tokens": words[begin:],
                "token_logprobs": ([None, *values[1:]] if begin == 0 else values[begin:]),
                "text_offset": offsets[begin:],
            }
            if begin == 0:
                choice["text"] = body["prompt"] + text
        if "prompt_logprobs" in body and self.scores_prompts:
            scored = list(zip(ids[1:], values, words, strict=False))
            choice["prompt_logprobs"] = [None, *({str(i): {"logprob": x, "decoded_token": w}} for i, x, w in scored)]
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(new)}
        return 200, {"object": "text_completion", "choices": [choice], "usage": usage}


@pytest.fixture(scope="session")
def _server(saved: Path) -> Iterator[Served]:
    served = Served(saved)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": NAME}, {"id": "tiny-chat"}]}, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with served.lock:
                served.asked.append((self.path, body, self.headers.get("Authorization")))
                failure = served.failures.pop(0) if served.failures else None
            if failure is not None:
                # Servers quote what they were sent: the key must not get out this way either.
                self._send(failure[0], {"error": f"no, not with {self.headers.get('Authorization')}"}, failure[1])
            else:
                self._send(*served.reply(self.path, body), {})

        def _send(self, status: int, reply: Any, headers: dict[str, str]) -> None:
            data = json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {
                **headers,
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(_server: Served) -> Served:
    _server.reset()
    return _server
