import subprocess
import sys

import pytest

from rag_exp.core.errors import LawError
from rag_exp.laws.forms import EXPONENT_BOUNDS, FORMS, form_by_name


def test_a_form_in_one_axis_takes_the_axis_that_is_asked_for():
    form = form_by_name("saturating(M)")
    assert form.variables == ("M",)
    assert form.parameters == ("E", "A", "alpha")
    assert form.equation == "E + A M^-alpha"
    assert form.label == "saturating(M)"


def test_the_joint_forms_have_the_papers_names_and_their_own_axes():
    assert form_by_name("joint").equation == "E + A N^-alpha + B M^-beta"
    assert form_by_name("joint_gain").equation == "E + A N^-alpha - G M^gamma"
    assert form_by_name("joint_rising").equation == "E + A N^-alpha + B M^beta"
    assert form_by_name("joint_log_gain").equation == "E + A N^-alpha - G ln M"
    assert form_by_name("chinchilla").parameters == ("E", "A", "B", "alpha", "beta")
    assert form_by_name("power").parameters == ("A", "alpha")


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_form_is_read_back_from_its_label(name):
    form = form_by_name(name)
    again = form_by_name(form.label)
    assert (again.label, again.equation, again.parameters) == (form.label, form.equation, form.parameters)
    assert all(form.bound(e) == EXPONENT_BOUNDS for e in form.exponents)
    assert form.summary


def test_an_unknown_form_is_an_error_that_suggests_one():
    with pytest.raises(LawError, match=r"saturatin.*Did you mean 'saturating'"):
        form_by_name("saturatin(N)")
    with pytest.raises(LawError, match="has its own axes"):
        form_by_name("joint(M)")
    with pytest.raises(LawError, match="No form is called"):
        form_by_name("E + A/N")


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, rag_exp.laws, rag_exp.laws.options; "
        "print([m for m in ('numpy', 'scipy', 'pandas', 'torch') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_public_names_load():
    import rag_exp.laws as laws

    assert all(callable(getattr(laws, name)) for name in laws.__all__ if name not in ("FORMS", "LAWS"))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = laws.fitt
