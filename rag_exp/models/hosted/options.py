"""What can be chosen about a hosted generator, and whether it answers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rag_exp.core.errors import EndpointError, did_you_mean
from rag_exp.core.fingerprint import ContentDigests
from rag_exp.core.options import NEUTRAL
from rag_exp.models.flops import ReaderSizes
from rag_exp.models.generator import GENERATORS, GeneratorOptions

if TYPE_CHECKING:
    from rag_exp.models.hosted.generator import HostedGenerator


@GENERATORS.register
class Hosted(GeneratorOptions):
    """A model behind an OpenAI-compatible endpoint, asked by text."""

    kind: Literal["hosted"] = "hosted"
    own_vocabulary: ClassVar[bool] = True
    hosted: ClassVar[bool] = True

    base_url: str = Field(min_length=1, description="what /completions is appended to: http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="the model's name there")
    revision: str | None = Field(
        None, description="your own name for the state of the model; change it when its weights change under its name"
    )
    protocol: Literal["completions", "chat"] = Field(
        "completions", description="chat sends the prompt as a user's message; it writes answers but scores none"
    )
    logprobs: Literal["auto", "echo", "prompt_logprobs", "none"] = Field(
        "auto", description="how the probability of a given answer is asked for; auto: as the endpoint answers"
    )
    end_token: str | None = Field(
        None, min_length=1, description="text of the end token, to be scored behind the answer; null: it is not scored"
    )
    stop: tuple[str, ...] = Field(("\n",), description="a written answer ends before any of these")
    extra: dict[str, Any] = Field(default_factory=dict, description="further fields of every request")
    context: int = Field(2048, ge=16, description="tokens of a prompt with its answer; passages are cut to fit")
    tokenizer: str | None = Field(
        None, description="tokenizer.json of the model, or its folder, to count tokens with; null: they are estimated"
    )
    characters_per_token: int = Field(
        3, ge=1, description="what a token is taken to hold where there is no tokenizer; passages are cut by it"
    )
    parameters: int | None = Field(
        None, ge=1, description="non-embedding parameters, as its maker states; null: not known, and no FLOPs"
    )
    key_variable: Annotated[str | None, NEUTRAL] = Field(
        None, description="name of the environment variable that holds the key (never the key)"
    )
    timeout: Annotated[float, NEUTRAL] = Field(120.0, gt=0, description="seconds to wait for an answer")
    tries: Annotated[int, NEUTRAL] = Field(6, ge=1, description="times a request is sent before it is given up")
    concurrency: Annotated[int, NEUTRAL] = Field(8, ge=1, description="requests under way at once")
    requests_per_minute: Annotated[float | None, NEUTRAL] = Field(None, gt=0, description="null: no limit")
    tokens_per_minute: Annotated[float | None, NEUTRAL] = Field(
        None, gt=0, description="of prompts and answers; null: no limit"
    )
    cache: Annotated[Path | None, NEUTRAL] = Field(
        None, description="folder of the replies, so that nothing is asked twice; null keeps none"
    )

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _key_variable(cls, value: str | None) -> str | None:
        # What was given is not repeated: it may be the key itself.
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError("give the name of an environment variable in capitals, such as MY_API_KEY, not the key")
        return value

    def is_seq2seq(self) -> bool:
        return False

    def context_length(self) -> int:
        return self.context

    def parameter_counts(self) -> dict[str, int]:
        return {}

    def non_embedding(self) -> int | None:
        return self.parameters

    def sizes(self) -> ReaderSizes | None:
        """With the parameters alone, FLOPs are 2 N a token: attention and output projection are left out."""
        if self.parameters is None:
            return None
        return ReaderSizes(body=self.parameters, layers=0, attention_width=0, width=0, vocab=0)

    def scores(self) -> bool:
        """Whether log-probabilities of given answers are asked for."""
        return self.protocol == "completions" and self.logprobs != "none"

    def problems(self, path: str = "generator") -> list[str]:
        found = []
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query:  # not repeated: a key may stand there
            found.append(f"{path}.base_url: give the bare address; a key is named by {path}.key_variable, not the key.")
        elif parts.scheme not in ("http", "https") or not parts.hostname:
            found.append(f"{path}.base_url: {self.base_url!r} is no address such as http://127.0.0.1:8000/v1.")
        if self.model == "???":
            found.append(f"{path}.model: missing; give {path}.model=NAME.")
        if self.protocol == "chat" and self.logprobs not in ("auto", "none"):
            found.append(f"{path}.logprobs: {self.logprobs}: a chat endpoint scores no given answer; use none.")
        if self.end_token is not None and not self.scores():
            found.append(f"{path}.end_token: {self.end_token!r}: no answer is scored, so no end token is; use null.")
        file = self.tokenizer_file()
        if file is not None and not file.is_file():
            found.append(f"{path}.tokenizer: {file}: no such file (relative to {Path.cwd()}).")
        return found

    def unready(self, path: str = "generator") -> list[str]:
        """Ask for one token, and for log-probabilities where they are wanted by name."""
        if self.key_variable is not None and not os.environ.get(self.key_variable):
            return [f"{path}.key_variable: the environment variable {self.key_variable} is not set; export it."]
        generator = self.create(None, 0)
        try:
            generator.probe()
        except EndpointError as e:
            return [f"{path}.{self._field_of(e)}: {e}{self._other_models(e, generator)}"]
        finally:
            generator.close()
        return []

    def content(self, digests: ContentDigests) -> dict[str, Any]:
        """The tokenizer's content in place of its path."""
        file = self.tokenizer_file()
        return {"tokenizer": None if file is None else digests.of(file)}

    def create(self, tokenizer_folder: Path | None, seed: int) -> HostedGenerator:
        """The generator; nothing is drawn from ``seed``, and no request is sent."""
        from rag_exp.models.hosted.generator import HostedGenerator

        return HostedGenerator(self)

    def load(self, folder: Path, tokenizer_folder: Path | None) -> HostedGenerator:
        """The same: whatever was trained beside it, the generator is where it was."""
        return self.create(tokenizer_folder, 0)

    def tokenizer_file(self) -> Path | None:
        """The tokenizer.json that tokens are counted with; None where they are estimated."""
        if self.tokenizer is None:
            return None
        path = Path(self.tokenizer).expanduser()
        return path / "tokenizer.json" if path.is_dir() else path

    def _field_of(self, error: EndpointError) -> str:
        """Which option an endpoint's refusal is about, as far as can be told."""
        if error.field is not None:
            return error.field
        if error.status in (401, 403):
            return "key_variable"
        return "model" if error.status is not None and "model" in str(error).partition(": ")[2].lower() else "base_url"

    def _other_models(self, error: EndpointError, generator: HostedGenerator) -> str:
        """The names the endpoint lists, where it may be the model's name that it refuses."""
        listed = generator.endpoint.models() if self._field_of(error) == "model" else []
        if not listed or self.model in listed:
            return ""
        return f"{did_you_mean(self.model, listed)} It lists: {', '.join(listed[:8])}."
