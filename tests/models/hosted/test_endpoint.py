"""Retries, waits, limits, and the key."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from rag_exp.core.errors import EndpointError
from rag_exp.models.hosted.endpoint import Endpoint
from rag_exp.models.hosted.pace import Pace

BODY = {"model": "tiny", "prompt": "Two and two is", "max_tokens": 1}
KEY = "sk-Very-Secret-0123456789"


@pytest.fixture
def endpoint(served):
    made = []

    def make(url=served.url, key_variable=None, tries=4, pace=None, timeout=20.0):
        waits: list[float] = []
        pace = pace or Pace(None, None)
        made.append(Endpoint(url, key_variable, timeout, tries, pace, sleep=waits.append))
        return made[-1], waits

    yield make
    for found in made:
        found.close()


def test_what_passes_is_tried_again_with_growing_waits(served, endpoint):
    found, waits = endpoint()
    served.failures = [(503, {}), (500, {}), (429, {})]
    assert found.post("/completions", BODY, 10)["choices"]
    assert found.retries == 3
    assert len(served.asked) == 4
    for wait, base in zip(waits, (1, 2, 4), strict=True):
        assert base / 2 <= wait <= base


def test_it_is_given_up_in_the_end(served, endpoint):
    found, _ = endpoint(tries=2)
    served.failures = [(503, {})] * 5
    with pytest.raises(EndpointError, match="answers 503"):
        found.post("/completions", BODY, 10)
    assert len(served.asked) == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(served, endpoint, form):
    later = "7" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    found, waits = endpoint()
    held = []
    found.pace.hold = held.append
    served.failures = [(429, {"Retry-After": later})]
    found.post("/completions", BODY, 10)
    assert 6 <= waits[0] <= 8
    assert held == waits  # all threads wait, not only this one


def test_a_wait_of_hours_is_an_error(served, endpoint):
    found, waits = endpoint()
    served.failures = [(429, {"Retry-After": "7200"})]
    with pytest.raises(EndpointError, match="asks to wait 7200 s"):
        found.post("/completions", BODY, 10)
    assert waits == []


def test_what_does_not_pass_is_not_tried_again(served, endpoint):
    found, _ = endpoint()
    served.failures = [(401, {})]
    with pytest.raises(EndpointError, match="answers 401") as told:
        found.post("/completions", BODY, 10)
    assert told.value.status == 401
    assert len(served.asked) == 1


def test_a_lost_connection_is_tried_again_unless_it_is_the_first_question(endpoint):
    found, waits = endpoint("http://127.0.0.1:9/v1", tries=3)
    with pytest.raises(EndpointError, match="cannot be reached"):
        found.post("/completions", BODY, 10, patient=False)
    assert waits == []
    with pytest.raises(EndpointError, match="cannot be reached"):
        found.post("/completions", BODY, 10)
    assert len(waits) == 2


def test_the_first_question_is_put_twice_to_a_failing_server(served, endpoint):
    found, waits = endpoint()
    served.failures = [(500, {})]
    assert found.post("/completions", BODY, 10, patient=False)["choices"]
    served.failures = [(500, {}), (500, {})]
    with pytest.raises(EndpointError, match="answers 500"):
        found.post("/completions", BODY, 10, patient=False)
    assert len(waits) == 2


def test_a_late_answer(served, endpoint, monkeypatch):
    release = threading.Event()
    reply = type(served).reply
    monkeypatch.setattr(type(served), "reply", lambda self, *a: release.wait(5) and reply(self, *a))
    found, _ = endpoint(timeout=0.2, tries=1)
    with pytest.raises(EndpointError, match=r"did not answer in 0\.2 s"):
        found.post("/completions", BODY, 10)
    release.set()


def test_the_key_is_sent_and_never_quoted(served, endpoint, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    found, _ = endpoint(key_variable="SOME_KEY", tries=1)
    served.failures = [(403, {})]
    with pytest.raises(EndpointError) as told:
        found.post("/completions", BODY, 10)
    assert served.asked[0][2] == f"Bearer {KEY}"
    assert "no, not with Bearer ***" in str(told.value)
    assert KEY not in repr(told.value) + repr(found.__dict__)


def test_the_pace_spaces_requests_and_tokens():
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(60, 6000, clock=lambda: now[0], sleep=sleep)
    at = []
    for tokens in (10, 10, 300, 10):
        pace.wait(tokens)
        at.append(now[0])
    assert at == pytest.approx([0, 1, 2, 5])  # 300 tokens are three seconds of 6000 a minute
    pace.hold(10)
    pace.wait(1)
    assert now[0] == pytest.approx(15)


def test_no_limit_no_wait():
    pace = Pace(None, None, sleep=lambda _: pytest.fail("waited"))
    for _ in range(5):
        pace.wait(1000)
