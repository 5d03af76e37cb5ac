"""Any endpoint that speaks OpenAI's chat completions, over plain HTTP(S).

    config.llm = dict(name="openai_compatible", model="qwen3-coder-30b",
                      base_url="http://localhost:8000/v1",
                      cache_dir="/data/completions")

The key, if the endpoint wants one, is the environment variable
VPD_LLM_API_KEY. Needs the standard library only.
"""

import concurrent.futures
import email.utils
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from data_gen.llm import client

KEY_VARIABLE = "VPD_LLM_API_KEY"
_RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
_LONGEST_WAIT_S = 60.0


class Client:
  """See `data_gen.llm.client.Client`.

  Args:
    model: as the endpoint names it.
    base_url: up to and with "/v1".
    timeout_s: longest wait for one reply.
    max_retries: more tries after a 429, a 5xx, a time-out, a broken
      connection or a reply that is no JSON; the wait doubles, from
      `retry_wait_s`, and is the endpoint's own if it names one.
    retry_wait_s: wait before the first retry.
    num_threads: requests in flight.
    wants_scores: asks for log-probabilities, the scores of programs. Off for
      endpoints that refuse the field.
  """

  def __init__(
    self,
    model: str,
    base_url: str = "http://localhost:8000/v1",
    timeout_s: float = 120.0,
    max_retries: int = 6,
    retry_wait_s: float = 1.0,
    num_threads: int = 8,
    wants_scores: bool = True,
  ):
    scheme = urllib.parse.urlsplit(base_url).scheme
    if scheme not in ("http", "https"):
      raise ValueError(
        f"config.llm.base_url={base_url!r} must begin with http:// or https://."
      )
    self.name = f"openai_compatible/{model}"
    self._model = model
    self._url = base_url.rstrip("/") + "/chat/completions"
    self._timeout_s = timeout_s
    self._max_retries = max_retries
    self._retry_wait_s = retry_wait_s
    self._num_threads = num_threads
    self._wants_scores = wants_scores
    self._key = os.environ.get(KEY_VARIABLE, "")

  def complete(
    self, requests: Sequence[client.Request]
  ) -> list[list[client.Completion]]:
    """See `data_gen.llm.client.Client`."""
    with concurrent.futures.ThreadPoolExecutor(self._num_threads) as pool:
      futures = [pool.submit(self._complete, request) for request in requests]
      try:
        return [future.result() for future in futures]
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise

  def _complete(self, request: client.Request) -> list[client.Completion]:
    """Asks for all samples at once, then for those that did not come.

    Some servers take n and return one choice. Each further call has a seed of
    its own, or it might give the same text again.
    """
    found: list[client.Completion] = []
    calls = 0
    while len(found) < request.n:
      reply = self._post(self._body(request, request.n - len(found), calls))
      found += self._choices(reply)
      calls += 1
    return found[: request.n]

  def _body(self, request, n, calls) -> dict[str, Any]:
    body = {
      "model": self._model,
      "messages": [
        {"role": m.role, "content": m.content} for m in request.messages
      ],
      "n": n,
      "temperature": request.temperature,
      "max_tokens": request.max_new_tokens,
      "seed": (request.seed + calls) % 2**31,
    }
    if request.stop:
      body["stop"] = list(request.stop)
    if self._wants_scores:
      body["logprobs"] = True
    return body

  def _choices(self, reply) -> list[client.Completion]:
    try:
      choices = [
        client.Completion(
          text=choice["message"]["content"] or "",
          score=_score(choice),
          finish_reason=choice.get("finish_reason") or "stop",
        )
        for choice in reply["choices"]
      ]
    except (KeyError, TypeError) as e:
      raise client.LLMError(
        f"{self._url}: a reply without choices: {_short(reply)}"
      ) from e
    if not choices:
      raise client.LLMError(f"{self._url}: no choice in {_short(reply)}")
    return choices

  def _post(self, body) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if self._key:
      headers["Authorization"] = f"Bearer {self._key}"
    data = json.dumps(body).encode()
    for attempt in range(self._max_retries + 1):
      request = urllib.request.Request(self._url, data, headers)
      wait_s = self._retry_wait_s * 2**attempt
      try:
        with urllib.request.urlopen(request, timeout=self._timeout_s) as reply:
          return json.load(reply)
      except urllib.error.HTTPError as e:
        cause = f"HTTP {e.code}: {_short(e.read().decode(errors='replace'))}"
        if e.code not in _RETRIED:
          raise client.LLMError(self._failed(cause, e.code)) from e
        wait_s = _retry_after(e.headers) or wait_s
      except TimeoutError:
        cause = f"no reply in {self._timeout_s:g} s"
      except json.JSONDecodeError as e:
        cause = f"the reply is no JSON: {e}"
      except (OSError, http.client.HTTPException) as e:
        cause = f"no connection: {getattr(e, 'reason', None) or e!r}"
      if attempt < self._max_retries:
        time.sleep(min(wait_s, _LONGEST_WAIT_S))
    raise client.LLMError(
      f"{self._failed(cause)} Gave up after {self._max_retries + 1} tries."
    )

  def _failed(self, cause: str, code: int = 0) -> str:
    hint = ""
    if code in (401, 403):
      hint = f" Set {KEY_VARIABLE} to the endpoint's key."
    elif code == 404:
      hint = " Check config.llm.base_url (with /v1) and config.llm.model."
    return f"{self._url}, model {self._model!r}: {cause}.{hint}"


def _score(choice) -> float | None:
  """Mean log-probability per token; None if the endpoint gave none."""
  tokens = (choice.get("logprobs") or {}).get("content") or []
  values = [t["logprob"] for t in tokens if t.get("logprob") is not None]
  return sum(values) / len(values) if values else None


def _retry_after(headers) -> float | None:
  """Seconds of a Retry-After header, a number or a date."""
  value = headers.get("Retry-After", "")
  try:
    return max(0.0, float(value))
  except ValueError:
    date = email.utils.parsedate_tz(value)
    return (
      None
      if date is None
      else max(0.0, email.utils.mktime_tz(date) - time.time())
    )


def _short(value: Any) -> str:
  text = value if isinstance(value, str) else json.dumps(value)
  return " ".join(text.split())[:300]
