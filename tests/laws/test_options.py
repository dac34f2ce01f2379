from pathlib import Path

import pytest
from pydantic import ValidationError

from rag_exp.laws.forms import form_by_name
from rag_exp.laws.options import LAWS, LawOptions

CONFIGS = Path(__file__).parents[2] / "configs" / "law"


def _composed(name):
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    for parent in config.pop("defaults", []):
        if parent != "_self_":
            config = {**_composed(parent), **config}
    return config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_is_valid_and_its_first_comment_is_its_command(path):
    options = LawOptions(**_composed(path.stem))
    assert path.read_text().startswith(
        "# rag-exp fit study=NAME" + ("" if path.stem == "default" else f" law={path.stem}")
    )
    for name in (*options.over_N, *options.over_M, *options.joint):
        form_by_name(name)


def test_the_default_config_is_the_defaults_of_the_options():
    assert LawOptions(**_composed("default")) == LawOptions()
    assert LAWS.kinds == {"forms": LawOptions}


def test_unknown_forms_and_keys_are_refused():
    with pytest.raises(ValidationError, match="Did you mean 'saturating'"):
        LawOptions(over_N=("saturatin",))
    with pytest.raises(ValidationError, match="bootstraps"):
        LawOptions(bootstraps=3)


def test_coverage_needs_replicates_that_can_be_simulated():
    for options in ({"bootstrap": 0}, {"resample": "questions"}):
        with pytest.raises(ValidationError, match=r"law\.coverage simulates the noise of runs"):
            LawOptions(coverage=100, **options)


def test_holdouts_are_those_of_a_study_and_change_nothing_where_none_is_named():
    assert LawOptions(holdout="largest_M").holdout == ("largest_M",)
    with pytest.raises(ValidationError, match=r"no hold-out 'largest_NN' .*Did you mean 'largest_N'"):
        LawOptions(holdout=("largest_NN",))
    with pytest.raises(ValidationError, match="largest_K"):  # no axis of a study's laws
        LawOptions(holdout=("largest_K",))
    with pytest.raises(ValidationError, match="named twice"):
        LawOptions(holdout=("largest_N", "largest_N"))
    assert "holdout" not in LawOptions().identity()
    assert LawOptions(holdout=("largest_N",)).identity()["holdout"] == ["largest_N"]
