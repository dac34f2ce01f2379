"""Errors come out of other processes as they went in."""

import pickle

from rag_exp.core.errors import ConfigError, EndpointError


def test_an_error_is_the_same_in_another_process():
    wrong = ConfigError(["a.b: one.", "c: two."])
    wrong.add_note("while embedding")
    there = pickle.loads(pickle.dumps(wrong))
    assert (there.problems, str(there), there.__notes__) == (wrong.problems, str(wrong), ["while embedding"])
    refused = pickle.loads(pickle.dumps(EndpointError("it refuses.", status=429, field="key")))
    assert (str(refused), refused.status, refused.field) == ("it refuses.", 429, "key")
