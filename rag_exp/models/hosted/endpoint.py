"""Asking over HTTP: timeouts, retries, and a key that stays where it is.

The key is read from the environment when a request is sent. It is in no record, log, reply on disk or message:
whatever comes back from the server is cleared of it first, since servers quote what they were sent.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rag_exp.core.errors import EndpointError
from rag_exp.models.hosted.pace import Pace
from rag_exp.models.hosted.wire import Json, complaint

TRIED_AGAIN = {408, 425, 429, 500, 502, 503, 504, 529}  # states that pass
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries, doubled each time
LONGEST_ASKED = 900.0  # seconds that a Retry-After may ask for; beyond, waiting is no way to go on
HIDDEN = "***"


class Endpoint:
    """One endpoint. Threads may share it.

    Args:
        url: what paths are appended to, such as ``http://127.0.0.1:8000/v1``.
        key_variable: the environment variable that holds the key; None: no key is sent.
        timeout: seconds to wait for an answer.
        tries: how often a request is sent before it is given up.
        pace: the limits that are kept to.
        sleep: how seconds pass.
    """

    def __init__(
        self, url: str, key_variable: str | None, timeout: float, tries: int, pace: Pace,
        sleep: Callable[[float], None] = time.sleep,
    ):  # fmt: skip
        import httpx2

        self.url, self.key_variable, self.tries, self.pace = url, key_variable, tries, pace
        self.retries = 0
        self._sleep = sleep
        self._client = httpx2.Client(timeout=timeout, limits=httpx2.Limits(max_connections=None))

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, body: Json, tokens: int, patient: bool = True) -> Json:
        """The reply to a request.

        Args:
            path: below the url.
            body: plain JSON values.
            tokens: of prompt and answer, roughly; for the pace.
            patient: False gives up at the first failure of the connection or the second of the server; one that is busy
                is waited for all the same.

        Raises:
            EndpointError: it cannot be reached, refuses, or does not answer with a JSON object; says what to do.
        """
        for tried in range(1, self.tries + 1):
            self.pace.wait(tokens)
            last = tried == self.tries
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)
            reply, problem, asked_wait = self._send("POST", path, body)
            if problem is None:
                return reply
            passes = problem.status in TRIED_AGAIN or problem.status is None
            # Servers say 500 of what they do not offer as of what passes: once more tells the two apart well enough.
            hopeless = not patient and problem.status not in (429, 503) and (problem.status is None or tried > 1)
            if asked_wait is not None and asked_wait > LONGEST_ASKED:
                raise EndpointError(f"{problem} It asks to wait {asked_wait:.0f} s; issue the command again then.")
            if last or not passes or hopeless:
                raise problem
            if asked_wait is not None:
                self.pace.hold(asked_wait)
            self.retries += 1
            self._sleep(max(wait, asked_wait or 0.0))
        raise AssertionError("a try is the last one")

    def models(self) -> list[str]:
        """Names of the models that the endpoint lists; none where it lists none."""
        reply, problem, _ = self._send("GET", "/models", None)
        listed = reply.get("data") if problem is None else None
        return [str(m["id"]) for m in listed if isinstance(m, dict) and "id" in m] if isinstance(listed, list) else []

    def _send(self, method: str, path: str, body: Json | None) -> tuple[Json, EndpointError | None, float | None]:
        """One try: the reply, or what is wrong and how long to wait before another where the server says."""
        import httpx2

        key = None if self.key_variable is None else os.environ.get(self.key_variable)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        where = f"{self.url}{path}"

        def said(text: Any) -> str:
            return str(text).replace(key, HIDDEN) if key else str(text)

        try:
            response = self._client.request(method, where, json=body, headers=headers)
        except httpx2.TimeoutException:
            late = f"{where} did not answer in {self._client.timeout.read} s; raise generator.timeout."
            return {}, EndpointError(late), None
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as e:
            return {}, EndpointError(f"{where} cannot be reached ({said(e)}). Is the server running there?"), None
        text = said(response.text)
        try:
            reply = json.loads(text)
        except ValueError:
            reply = None
        if response.status_code >= 400:
            told = complaint(text if reply is None else reply) or "no reason given"
            refused = EndpointError(
                f"{where} answers {response.status_code}: {told.rstrip('.')}.", response.status_code
            )
            return {}, refused, _retry_after(response.headers.get("Retry-After"))
        if not isinstance(reply, dict):
            odd = f"{where} answers with something that is no JSON object: {complaint(text)!r}. Is that its address?"
            return {}, EndpointError(odd, response.status_code), None
        return reply, None, None


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, of a Retry-After header: a number, or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
