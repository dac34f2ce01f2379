"""The progress of a stage on disk, so that a killed run goes on instead of starting over.

One safetensors file, replaced by rename: weights, the optimiser's moments, the live retriever's state and,
as JSON in its header, the step, the counters and the loss curve. The order of batches, the learning
rate and the dropout masks are pure functions of the step, so nothing else is needed, and a resumed
training ends in the same bits (on CPU, with equal threads) as an unbroken one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_exp.core.atomic import disk_errors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a progress file holds.

    Attributes:
        step: steps done.
        tensors: weights (``model.``), moments (``optimizer.``) and other state (``extra.``).
        facts: plain JSON (counters, loss curve).
    """

    step: int
    tensors: Mapping[str, Tensor]
    facts: dict[str, Any]


def save_progress(
    path: Path, step: int, model: nn.Module, optimizer: Optimizer, extra: Mapping[str, Tensor], facts: dict[str, Any]
) -> None:
    """Write progress to ``path`` atomically.

    Raises:
        StoreError: the disk is full or not writable; an older file is left as it was.
    """
    from safetensors.torch import save_file

    tensors = {f"model.{name}": t for name, t in _state(model).items()}
    for name, state in _moments(model, optimizer).items():
        tensors |= {f"optimizer.{name}.{key}": t for key, t in state.items()}
    tensors |= {f"extra.{name}": t for name, t in extra.items()}
    # Tensors that share storage (tied weights are named once) cannot be; copies only where memory is not contiguous.
    tensors = {name: t.detach().contiguous() for name, t in tensors.items()}
    metadata = {"progress": json.dumps({"step": step, "facts": facts}, allow_nan=False)}
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, str(temporary), metadata)
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def load_progress(path: Path) -> Progress | None:
    """Read a progress file to CPU; None where there is none. An unreadable one is said and passed over."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(str(path), "pt") as f:
            facts = json.loads(f.metadata()["progress"])
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
        return Progress(facts["step"], tensors, facts["facts"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
        log.warning("%s cannot be read (%s); this stage starts over", path, e)
        return None


def restore_model(model: nn.Module, progress: Progress) -> None:
    """Put the saved weights into ``model``.

    Raises:
        KeyError: the file lacks one, or holds one too many: it is of another model.
    """
    import torch

    saved = {n.removeprefix("model."): t for n, t in progress.tensors.items() if n.startswith("model.")}
    state = _state(model)
    if saved.keys() != state.keys():
        raise KeyError(f"progress of another model: {sorted(saved.keys() ^ state.keys())[:3]}")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(saved[name])


def restore_optimizer(model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Put the saved moments into ``optimizer``, whose parameters must be the model's."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            start = f"optimizer.{names[parameter]}."
            state = {n.removeprefix(start): t for n, t in progress.tensors.items() if n.startswith(start)}
            # A parameter that never had a gradient has no state.
            if state:
                optimizer.state[parameter] = {
                    key: t.clone() if key == "step" and not group.get("fused") else t.to(parameter.device, copy=True)
                    for key, t in state.items()
                }


def extra_of(progress: Progress) -> dict[str, Tensor]:
    """The other state that was saved beside model and optimiser."""
    return {n.removeprefix("extra."): t for n, t in progress.tensors.items() if n.startswith("extra.")}


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (shared ones once) and the buffers that belong to the state, by name."""
    kept = model.state_dict(keep_vars=True)
    found: dict[str, Tensor] = dict(model.named_parameters())
    found |= {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return found


def _moments(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: state for parameter, state in optimizer.state.items()}
