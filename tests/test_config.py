"""Every mistake in a configuration is one clear sentence, all of them at once, before any work."""

import subprocess
import sys

import pytest

from rag_exp import config as configs
from rag_exp.core.errors import ConfigError


def problems(*overrides, user=None):
    with pytest.raises(ConfigError) as e:
        configs.compose(overrides, user)
    return e.value.problems


def test_the_default_is_the_quickstarts_middle_point():
    run = configs.compose([]).run
    assert (run.corpus.kind, run.index.kind, run.objective.kind) == ("factbook", "flat", "rag_sequence")


def test_a_mistyped_key_is_named_with_what_is_near():
    (text,) = problems("generator.siz=s1")
    assert text == "generator.siz: unknown key. Did you mean 'size'?"


def test_plus_does_not_let_a_mistyped_key_in():
    (text,) = problems("index=ivf", "+index.nlst=3")
    assert text.startswith("index.nlst: unknown key. Did you mean 'nlist' or 'lists'?")


def test_of_several_near_keys_the_nearest_says_where_it_belongs():
    (text,) = problems("index.nlst=3")
    assert text.startswith("index.nlst: unknown key. Did you mean 'nlist' or 'lists'? nlist belongs to index=ivf")


def test_a_key_of_another_option_of_the_group_says_where_it_belongs():
    (text,) = problems("index.nlist=64")
    assert "nlist belongs to index=ivf" in text


def test_an_unknown_option_is_named_with_what_is_near():
    (text,) = problems("index=hnws")
    assert "Did you mean 'hnsw'?" in text
    assert "flat" in text


def test_all_problems_at_once():
    found = problems("seed=one", "corpus=factbok", "retrieval.k=0", "optim.lr=-1", "+nothing=1")
    starts = sorted(p.split(":")[0].split("=")[0] for p in found)
    assert starts == ["corpus", "nothing", "optim.lr", "retrieval.k", "seed"]


def test_what_a_preset_leaves_to_the_user_is_asked_for():
    found = problems("encoder=precomputed", "corpus=trec", "retrieval.k=0")
    missing = ["corpus.files", "encoder.questions", "encoder.question_ids"]
    assert found[:3] == [f"{path}: missing; give {path}=VALUE." for path in missing]
    assert [p.split(":")[0] for p in found[3:]] == ["retrieval.k"]


def test_a_kind_that_does_not_exist():
    (text,) = problems("index.kind=flt")
    assert text.startswith("index.kind: 'flt' is no kind of index. Did you mean 'flat'?")


def test_a_sweep_without_m_says_so():
    (text,) = problems("seed=1,2")
    assert "-m" in text


def test_what_is_no_override_at_all():
    (text,) = problems("seed")
    assert "key=value" in text


def test_a_valid_key_that_no_file_lists_is_let_in():
    assert configs.compose(["trainer.num_workers=2"]).run.trainer.num_workers == 2


def test_own_configs_are_found(place):
    (place / "mine" / "index").mkdir(parents=True)
    (place / "mine" / "index" / "wide.yaml").write_text("kind: ivf\nnprobe: 77\n")
    composed = configs.compose(["index=wide"], configs.user_configs("mine"))
    assert composed.run.index.nprobe == 77
    with pytest.raises(ConfigError, match="no such folder"):
        configs.user_configs("absent")


def test_configs_of_the_working_folder_are_found(place):
    assert configs.user_configs(None) is None
    (place / "configs" / "index").mkdir(parents=True)
    (place / "configs" / "index" / "own.yaml").write_text("kind: flat\n")
    assert configs.compose(["index=own"], configs.user_configs(None)).run.index.kind == "flat"


def test_sweeps_are_told_from_plain_overrides():
    plain, axes = configs.sweep_axes(["seed=range(0,3)", "index=flat,ivf", "optim.betas=[0.9,0.95]"])
    assert plain == ["optim.betas=[0.9,0.95]"]
    assert axes == {"seed": ["0", "1", "2"], "index": ["flat", "ivf"]}


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "s0", "a b, c='d'", "x/y.z", [1, "a,b"], {"a": [1, None]}])
def test_values_survive_the_override_grammar(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"key={configs.quoted(value)}").value() == value


def test_every_group_option_that_comes_with_the_package_is_valid():
    needs_input = {
        "jsonl",
        "squad",
        "hotpotqa",
        "musique",
        "hub",
        "nq_open",
        "wiki_dpr",
        "sentence_transformers",
        "pretrained",
        "trec",
        "judged",
        "precomputed",
        "run",
        "file",
        "hosted",
    }
    for group in sorted(configs._groups(None) - {"experiment", "study", "debug"}):
        for option in configs.group_options(group):
            if option not in needs_input:
                with_it = ["corpus=closed_world"] if option.startswith("closed_world") else []
                configs.compose([*with_it, f"{group}={option}"])


def test_a_groups_defaults_are_those_of_its_file():
    """A user's own file that leaves a key out gets what the shipped file says."""
    run = configs.compose([]).run
    for name, field in type(run).model_fields.items():
        options = getattr(run, name)
        if not isinstance(options, configs.Options) or name == "paths":
            continue
        needed = {k: getattr(options, k) for k, f in type(options).model_fields.items() if f.is_required()}
        assert type(options)(**needed) == options, f"{name}: {field}"


def test_questions_of_another_corpus_say_so():
    (text,) = problems("questions=closed_world")
    assert "goes with another" in text


def test_naming_and_dry_running_import_nothing_heavy():
    code = """
import sys
from rag_exp import config, study
plan = study.expand(["generator.size=s1"])
names = ("torch", "pytorch_lightning", "transformers", "scipy", "pandas", "faiss", "sklearn")
heavy = [m for m in names if m in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
