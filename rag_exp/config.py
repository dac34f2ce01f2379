"""From Hydra's overrides to a frozen, validated :class:`RunConfig`. The only room that knows Hydra and OmegaConf.

Each component declares its own options; this module only puts their registries together. Every problem
is reported at once, with its full path, the reason and the nearest names, before any work starts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

# Importing a module registers its kinds.
from rag_exp.core.errors import ConfigError, did_you_mean
from rag_exp.core.options import NEUTRAL, Options
from rag_exp.data import closed_world, factbook, hub, jsonl, judged, multihop_files, points, squad  # noqa: F401
from rag_exp.data.passages import PASSAGES
from rag_exp.data.sources import CORPORA, QUESTIONS
from rag_exp.data.tokenizer import TokenizerOptions
from rag_exp.evaluation.options import EvaluationOptions
from rag_exp.models.generators import GENERATORS
from rag_exp.models.objectives import OBJECTIVES
from rag_exp.models.prompt import PromptOptions
from rag_exp.retrieval.encoders import ENCODERS
from rag_exp.retrieval.indexes import INDEXES
from rag_exp.retrieval.options import RetrievalOptions, RetrieverOptions
from rag_exp.training.options import LoggerOptions, OptimOptions, TrainerOptions, TrainingOptions

REGISTRIES = {r.group: r for r in (CORPORA, PASSAGES, QUESTIONS, ENCODERS, INDEXES, GENERATORS, OBJECTIVES)}
NOT_A_RUN = ("study", "law")  # composed with a run, but no part of it


class PathOptions(Options):
    """Where things are written. Nothing here changes a result."""

    root: Annotated[Path, NEUTRAL] = Path("outputs")
    store: Annotated[Path, NEUTRAL] = Path("outputs/store")
    data: Annotated[str, NEUTRAL] = ""
    reuse: Annotated[bool, NEUTRAL] = True


class EvaluationSetting(EvaluationOptions):
    """The evaluation's options, and the index it is asked through (None: the training index)."""

    index: INDEXES.union() | None = None  # type: ignore[valid-type]


class RunConfig(Options):
    """All that one run is. ``corpus``, ``index`` and ``retrieval`` are the training setting; ``evaluation``
    holds what differs when the trained model is asked. ``distractors_encoder`` orders documents where
    ``corpus.distractors`` says so."""

    task: Annotated[Literal["rag", "retrieval"], NEUTRAL] = Field(
        "rag", description="rag: a reader is trained and asked; retrieval: a search alone is measured, nothing reads"
    )
    seed: int = Field(0, ge=0)
    corpus: CORPORA.union()  # type: ignore[valid-type]
    passages: PASSAGES.union()  # type: ignore[valid-type]
    questions: QUESTIONS.union()  # type: ignore[valid-type]
    tokenizer: TokenizerOptions
    encoder: ENCODERS.union()  # type: ignore[valid-type]
    distractors_encoder: ENCODERS.union() | None = None  # type: ignore[valid-type]
    index: INDEXES.union()  # type: ignore[valid-type]
    retriever: RetrieverOptions
    retrieval: RetrievalOptions
    generator: GENERATORS.union()  # type: ignore[valid-type]
    prompt: PromptOptions
    objective: OBJECTIVES.union()  # type: ignore[valid-type]
    optim: OptimOptions
    training: TrainingOptions
    evaluation: EvaluationSetting
    trainer: Annotated[TrainerOptions, NEUTRAL]
    logger: Annotated[LoggerOptions, NEUTRAL]
    paths: Annotated[PathOptions, NEUTRAL]

    @property
    def ordering(self) -> RunConfig:
        """The same with the encoder that orders distractors in its encoder's place."""
        return self.model_copy(update={"encoder": self.distractors_encoder})


@dataclass(frozen=True)
class Composed:
    """What a list of overrides means.

    Attributes:
        run: the validated run.
        plain: the same as plain JSON values.
        study, law: the plain `study` and `law` nodes (None where not chosen).
    """

    run: RunConfig
    plain: dict[str, Any]
    study: dict[str, Any] | None
    law: dict[str, Any] | None


def package_configs() -> Path:
    """The folder of configs that comes with rag_exp: inside the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def user_configs(config_dir: str | None) -> Path | None:
    """The user's own configs: ``--config-dir``, else ``./configs`` of the working folder, where that is not ours.

    Raises:
        ConfigError: ``--config-dir`` names no folder.
    """
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir {config_dir}: no such folder.")
        return Path(config_dir).resolve()
    here = Path("configs")
    return here.resolve() if here.is_dir() and here.resolve() != package_configs().resolve() else None


@contextmanager
def composing() -> Iterator[None]:
    """Hydra set up for :func:`compose`; cheap to enter again while already inside."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(package_configs().resolve()), version_base="1.3"):
        yield


def compose(overrides: Sequence[str], user: Path | None = None) -> Composed:
    """Compose and validate.

    Args:
        overrides: as on Hydra's command line, no sweeps.
        user: a folder of the user's own config groups, searched beside the package's.

    Raises:
        ConfigError: with every problem found.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

    with composing():
        forced, problems = _checked(overrides, user)
        try:
            values = [o for o in forced if o.startswith("++")]
            composed = copy.deepcopy(_options_chosen(tuple(o for o in forced if not o.startswith("++"))))
            for parsed in _parse(values):
                OmegaConf.update(composed, parsed.key_or_group, parsed.value(), force_add=True)
            plain = OmegaConf.to_container(composed, resolve=True)
        except InterpolationKeyError as e:
            raise ConfigError([*problems, _dangling(e)]) from e
        except (HydraException, OmegaConfBaseException) as e:
            raise ConfigError([*problems, _one_line(e)]) from e
    assert isinstance(plain, dict)
    study, law = (plain.pop(name, None) for name in NOT_A_RUN)
    for name in ("experiment", "debug"):
        if plain.get(name, ...) is None:
            del plain[name]
    try:
        run = validate(plain)
    except ConfigError as e:
        raise ConfigError([*problems, *e.problems]) from e
    if problems:
        raise ConfigError(problems)
    return Composed(run, plain, study, law)


@lru_cache(maxsize=64)
def _options_chosen(overrides: tuple[str, ...]) -> Any:
    """Hydra's composition of the chosen options, before values are set: that is most of composing's time, and the
    points of a study share it. Files are read once a process; within one command they are taken not to change."""
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    composed = hydra_compose("config", overrides=list(overrides))
    OmegaConf.set_struct(composed, False)
    return composed


def validate(plain: dict[str, Any]) -> RunConfig:
    """The typed configuration.

    Raises:
        ConfigError: every unknown key, wrong type, value out of range, or value that a preset leaves to the user, each
            with its full path.
    """
    missing = list(_not_given(plain))
    problems = [f"{path}: missing; give {path}=VALUE." for path in missing]
    try:
        run = RunConfig.model_validate(plain)
    except ValidationError as e:
        found = [_sentence(error) for error in e.errors()]
        raise ConfigError([*problems, *(s for s in found if s.partition(":")[0] not in missing)]) from e
    if problems:
        raise ConfigError(problems)
    return run


def _not_given(plain: Any, path: str = "") -> Iterator[str]:
    """Full paths of the values that a preset leaves to the user (``???``)."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from _not_given(value, f"{path}.{key}" if path else str(key))
    elif plain == "???":
        yield path


def sweep_axes(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Tell plain overrides from sweeps: ``a=1,2`` -> the axis ``{"a": ["1", "2"]}`` (Hydra's grammar).

    Raises:
        ConfigError: an override that Hydra's grammar does not know.
    """
    plain: list[str] = []
    axes: dict[str, list[str]] = {}
    for text, parsed in zip(overrides, _parse(overrides), strict=True):
        if parsed.is_sweep_override():
            if not parsed.is_choice_sweep() and not parsed.is_range_sweep():
                raise ConfigError(f"{text}: only lists of values (a=1,2) and range(...) can be swept in a study.")
            axes[parsed.get_key_element()] = list(parsed.sweep_string_iterator())
        else:
            plain.append(text)
    return plain, axes


def quoted(value: Any) -> str:
    """A YAML value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(quoted(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{quoted(v)}" for k, v in value.items()) + "}"
    text = str(value)
    if text and all(c.isalnum() or c in "_-./@:" for c in text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def unquoted(text: str) -> Any:
    """The YAML value of a text in Hydra's override grammar: what :func:`quoted` was given."""
    value = _parse([f"value={text}"])[0].value()
    return list(value) if isinstance(value, tuple) else value


def job(task: Any, overrides: Sequence[str], user: Path | None, multirun: bool) -> None:
    """Hand ``overrides`` to Hydra, which calls ``task(cfg)`` for the run, or for every run of the sweep.

    Composing, launchers, ``--cfg job`` and the rest of Hydra's command line are Hydra's own.
    """
    import sys

    import hydra

    groups = _groups(user)

    def forced(word: str) -> str:
        # A key that is valid but stands in no YAML file is one that Hydra would not let in: it is forced, as in
        # `compose`. Hydra's own flags and their values (--cfg job) are left as they are.
        return word if word.startswith("-") or "=" not in word else _forced(word, _parse([word])[0], groups)

    argv = ["rag-exp run", *(["-m"] if multirun else []), *map(forced, overrides)]
    if user is not None:
        argv += ["--config-dir", str(user)]
    kept, sys.argv = sys.argv, argv
    try:
        hydra.main(version_base="1.3", config_path=str(package_configs().resolve()), config_name="config")(task)()
    finally:
        sys.argv = kept


def plain_of(cfg: Any) -> dict[str, Any]:
    """A composed Hydra config as plain values, without what is no part of a run."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    for name in NOT_A_RUN:
        plain.pop(name, None)
    return {k: v for k, v in plain.items() if not (k in ("experiment", "debug") and v is None)}


def defaults_of(plain: dict[str, Any], reference: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of ``plain`` whose values differ from ``reference``, with those values."""
    for key, value in plain.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(reference.get(key), dict):
            yield from defaults_of(value, reference[key], path + ".")
        elif key not in reference or reference[key] != value:
            yield path, value


def group_options(group: str, user: Path | None = None) -> list[str]:
    """The names of a config group's options, the package's and the user's."""
    names = set()
    for root in (package_configs(), user):
        if root is not None and (root / group).is_dir():
            names |= {f.stem for f in (root / group).glob("*.yaml")}
    return sorted(names)


@lru_cache(maxsize=512)
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def _parse(overrides: Sequence[str]) -> list[Any]:
    from hydra.errors import HydraException

    parsed, problems = [], []
    for text in overrides:
        try:
            parsed.append(_parser().parse_override(text))
        except HydraException as e:
            problems.append(f"{text}: not a Hydra override (write key=value). {_one_line(e)}")
    if problems:
        raise ConfigError(problems)
    return parsed


def _checked(overrides: Sequence[str], user: Path | None) -> tuple[list[str], list[str]]:
    """The overrides as we hand them to Hydra's composer, and the problems with them.

    Options of groups are held against what exists (an unknown one is left out, so that the rest can be checked),
    and values are forced in, so that a mistyped key reaches the validation: every problem is reported at once.
    """
    groups = _groups(user)
    forced, problems = [], []
    for text, parsed in zip(overrides, _parse(overrides), strict=True):
        key = parsed.key_or_group
        if parsed.is_sweep_override():
            problems.append(f"{text}: several values need -m (rag-exp run -m {text}).")
            continue
        if key in groups:
            options = group_options(key, user)
            value = parsed.value()
            if value is not None and str(value) not in options and not isinstance(value, dict):
                problems.append(
                    f"{key}={value}: no such option.{did_you_mean(str(value), options)} Known: {', '.join(options)}."
                )
                continue
        forced.append(_forced(text, parsed, groups))
    if user is not None:
        forced.append(f"hydra.searchpath=[{quoted(f'file://{user}')}]")
    return forced, problems


def _groups(user: Path | None) -> set[str]:
    """The config groups there are, the package's and the user's."""
    roots = [root for root in (package_configs(), user) if root is not None]
    return {d.name for root in roots for d in root.iterdir() if d.is_dir() and any(d.glob("*.yaml"))}


def _forced(text: str, parsed: Any, groups: set[str]) -> str:
    """An override of a value as ``++key=value``; of a group, of Hydra's own settings, or a deletion, as it is."""
    key = parsed.key_or_group
    return text if key in groups or key.startswith("hydra") or parsed.is_delete() else "++" + text.lstrip("+")


def _options_at(path: Sequence[str | int]) -> tuple[list[str], type[Options] | None, str | None]:
    """Walk the options classes along a pydantic error's location.

    Returns:
        the path with union tags taken out, the class that holds the last key, and the group it belongs to.
    """
    clean: list[str] = []
    owner: type[Options] | None = RunConfig
    group: str | None = None
    parent: type[Options] | None = None
    for part in map(str, path):
        if owner is None and group is not None and part in REGISTRIES[group].kinds:
            owner = REGISTRIES[group].kinds[part]  # a union's tag, no key of the config
            continue
        clean.append(part)
        parent, owner = owner, None
        field = parent.model_fields.get(part) if parent is not None else None
        if field is not None:
            for cls in [field.annotation, *get_args(field.annotation)]:
                if isinstance(cls, type) and issubclass(cls, Options):
                    owner = cls
            for name, registry in REGISTRIES.items():
                if any(k in _classes(field.annotation) for k in registry.kinds.values()):
                    group = name
                    owner = None if len(registry.kinds) > 1 else owner
    return clean, parent, group


def _classes(annotation: Any) -> list[Any]:
    found = [annotation]
    for part in get_args(annotation):
        found += _classes(part)
    return found


def _sentence(error: Any) -> str:
    """One pydantic error as a sentence: full path, reason, nearest names."""
    clean, owner, group = _options_at(error["loc"])
    path = ".".join(clean)
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        known = list(owner.model_fields) if owner is not None else []
        hint = did_you_mean(clean[-1], known)
        if not hint and group is not None and len(clean) > 1:
            registry = REGISTRIES[group]
            homes = [k for k, cls in registry.kinds.items() if clean[-1] in cls.model_fields]
            if homes:
                hint = f" {clean[-1]} belongs to {' and '.join(f'{group}={k}' for k in homes)}."
            else:
                far = {f for cls in registry.kinds.values() for f in cls.model_fields}
                near = did_you_mean(clean[-1], far)
                for name in sorted(far, key=lambda name: near.find(repr(name))):  # the nearest comes first
                    if repr(name) in near:
                        homes = [k for k, cls in registry.kinds.items() if name in cls.model_fields]
                        hint = f"{near} {name} belongs to {' and '.join(f'{group}={k}' for k in homes)}."
                        break
        return f"{path}: unknown key.{hint}" + (f" Known here: {', '.join(known)}." if known and not hint else "")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = list(REGISTRIES[group].kinds) if group else []
        tag = given.get("kind") if isinstance(given, dict) else given
        return f"{path}.kind: {tag!r} is no kind of {group}.{did_you_mean(str(tag), known)} Known: {', '.join(known)}."
    if kind == "missing":
        return f"{path}: missing; give {path}=VALUE."
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    return f"{path}: {message}" + ("" if kind in ("value_error", "assertion_error") else f" (given: {given!r})") + "."


def _dangling(error: Any) -> str:
    """One option refers to a key that the chosen options do not have (questions of one corpus with another, say)."""
    group = error.full_key.split(".")[0]
    return (
        f"{error.full_key}: {_one_line(error).split(' full_key')[0]}: this option of {group} goes with another one "
        f"of the group it refers to. The first line of its file says with which ({group}/ in the configs folder)."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
