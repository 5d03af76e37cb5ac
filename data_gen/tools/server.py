"""Answers tool calls of many programs: gathers, batches, remembers, survives.

    with ToolServer({"find": {"name": "world_find"}}) as server:
      server.submit(token, "find", image, box, {"object_name": "car"})
      select.select(server.files(), [], [], ...)  # Till next_deadline_s().
      for token, answer in server.poll(flush=True): ...

Tools run in processes of their own (see `host`): all in one, or as their key
`process` says. There is one queue a tool and one batch at a time in a process;
while it is busy, its queues gather. Equal calls run once, and what comes of a
call does not depend on its companions: when a process dies or hangs, it is
started again, and each call of the batch gets one more try, alone.

Everything happens in `poll`, in the caller's thread.
"""

import collections
import dataclasses
import math
import time
from collections.abc import Hashable, Mapping
from multiprocessing import connection
from typing import Any

from data_gen.tools import _host_process, api, cache, toolbox
from data_gen.tools import tool as tool_lib

ToolServerError = _host_process.ToolServerError

MAX_REMEMBERED = 20_000
_CLOSED = "this tool server is closed; keep it open till the last outcome"
_COUNTS = (
  "calls",
  "joined",
  "memory_hits",
  "disk_hits",
  "broken_cache_entries",
  "executed",
  "batches",
  "retried",
  "refused",
)


@dataclasses.dataclass(eq=False)
class _Request:
  """A call that is to run, and who waits for it."""

  call: str
  key: str
  image: tool_lib.Image | None
  box: api.Box
  arguments: Mapping[str, Any]
  since_s: float
  tokens: list[Hashable]
  is_retry: bool = False


class ToolServer:
  """Tools in processes; a context manager.

  Args:
    tools_config: call of the program API -> the tool's module as "name", its
      keyword arguments and, if it shall have a process of its own, "process";
      see `tool`.
    batch_window_s: longest time that a call waits for companions.
    cache_dir: folder of answers kept from run to run; "" keeps none.
    start_timeout_s: longest time for a process to make its tools.

  Raises:
    ToolServerError: if a process does not start or a tool cannot be made.
    ValueError: if an option makes no sense.
  """

  def __init__(
    self,
    tools_config: Mapping[str, Mapping[str, Any]],
    *,
    batch_window_s: float = 0.005,
    cache_dir: str = "",
    start_timeout_s: float = 600.0,
  ):
    if not 0 <= batch_window_s < math.inf:
      raise ValueError(f"batch_window_s={batch_window_s} must be 0 or more")
    self._batch_window_s = batch_window_s
    self._is_closed = False
    self._config = {call: dict(s) for call, s in tools_config.items()}
    self._queues: dict[str, collections.deque[_Request]] = {
      call: collections.deque() for call in self._config
    }
    self._pending: dict[str, _Request] = {}
    self._memory: collections.OrderedDict[str, Any] = collections.OrderedDict()
    self._ready: list[tuple[Any, tool_lib.Answer]] = []
    self._counts = {call: dict.fromkeys(_COUNTS, 0) for call in api.CALLS}
    self._faults = {call: collections.Counter() for call in api.CALLS}
    self._seconds = dict.fromkeys(api.CALLS, 0.0)
    self._cache = None
    self._hosts: list[_host_process.HostProcess] = []
    self._host_of: dict[str, _host_process.HostProcess] = {}
    try:
      self._start(start_timeout_s)
      if cache_dir:
        self._cache = cache.DiskCache(cache_dir)
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> "ToolServer":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  @property
  def versions(self) -> dict[str, str]:
    """Call -> version of the tool that answers it, for manifests."""
    return {call: spec["version"] for call, spec in self._specs.items()}

  @property
  def weights(self) -> dict[str, str]:
    """Call -> hash of the tool's weights, "" for none, for manifests."""
    return {call: spec["weights"] for call, spec in self._specs.items()}

  def submit(
    self,
    token: Hashable,
    call: str,
    image: tool_lib.Image | None,
    box: api.Box | None,
    arguments: Mapping[str, Any],
  ) -> None:
    """Takes a call; its answer comes from `poll`, with this token.

    Args:
      token: anything that tells the caller whose call it is.
      call: a name in `api.CALLS`.
      image: None if the question has none.
      box: y1 x1 y2 x2 on 0..999; None is the whole image.
      arguments: plain values; checked here.

    Raises:
      ToolServerError: if it is closed.
    """
    if self._is_closed:
      raise ToolServerError(_CLOSED)
    self._counts[call]["calls"] += 1
    if call not in self._config:
      text = toolbox.missing_text(call, self._config)
      self._answer(call, token, _fault("tool_missing", text))
      return
    try:
      toolbox.check_arguments(call, arguments)
    except api.ToolRefused as e:
      answer = tool_lib.Answer("refused", message=str(e))
      self._answer(call, token, answer)
      return
    if not self._specs[call]["uses_pixels"]:
      image = None
    elif image is None:
      text = toolbox.no_image_text(call)
      self._answer(call, token, _fault("bad_image", text))
      return
    self._take(token, call, image, box or api.WHOLE, arguments)

  def poll(self, flush: bool) -> list[tuple[Any, tool_lib.Answer]]:
    """Sends batches that are due, and returns answers that are there.

    Never waits for a tool.

    Args:
      flush: whether no caller can go on without an answer, so that nothing is
        gained by waiting for companions.

    Returns:
      (token, answer) pairs; each token that was submitted comes once.

    Raises:
      ToolServerError: if a process had to be started again and fails to, or
        if this is closed.
    """
    if self._is_closed:
      raise ToolServerError(_CLOSED)
    for host in self._hosts:
      try:
        replies = host.receive()
      except _host_process.HostLost as e:
        self._restart(host, "tool_died", str(e))
        continue
      if replies is not None:
        self._take_replies(host, replies)
      elif host.deadline_s is not None and host.deadline_s <= time.monotonic():
        self._expire(host)
    for host in self._hosts:
      batch = self._next_batch(host, flush)
      if batch:
        self._send(host, batch)
    ready, self._ready = self._ready, []
    return ready

  def files(self) -> list[int]:
    """Descriptors to wait on: when one is readable, call `poll`. They change
    when a process is started again."""
    return [fd for host in self._hosts for fd in host.files()]

  def next_deadline_s(self) -> float | None:
    """The time.monotonic() at which `poll` is to be called again, if no file
    is readable before; None for never."""
    if self._ready:
      return time.monotonic()
    times = [h.deadline_s for h in self._hosts if h.deadline_s is not None]
    for call, queue in self._queues.items():
      host = self._host_of[call]
      if queue and host.is_ready and host.batch is None:
        times.append(self._due_s(call))
    return min(times, default=None)

  def stats(self) -> dict[str, Any]:
    """What was done so far, in plain values.

    Returns:
      "calls": call -> calls (all that were submitted), joined (to an equal one
        that was pending), memory_hits, disk_hits, broken_cache_entries,
        executed, batches, retried (alone, after a process was lost), refused,
        faults (error class -> number of calls), seconds (in batches).
      "restarts": process -> how often it was started again.
      "cache": see `cache.DiskCache.stats`; None without one.
    """
    return {
      "calls": {
        call: {
          **counts,
          "faults": dict(self._faults[call]),
          "seconds": self._seconds[call],
        }
        for call, counts in self._counts.items()
        if counts["calls"]
      },
      "restarts": {host.name: host.restarts for host in self._hosts},
      "cache": self._cache.stats() if self._cache else None,
    }

  def close(self) -> None:
    """Ends the processes; a second call does nothing."""
    self._is_closed = True
    for host in self._hosts:
      host.close()
    self._hosts = []
    if self._cache:
      self._cache.close()

  def _start(self, timeout_s):
    """All processes at once, and waits till the last is ready."""
    for call in self._config:
      if call not in api.CALLS:
        raise ValueError(
          f"config.tools.{call}: the program API has no such call; it has"
          f" {sorted(api.CALLS)}"
        )
    sections: dict[str, dict[str, Any]] = {}
    for call, section in self._config.items():
      process = section.get("process", "tools")
      sections.setdefault(process, {})[call] = section
    for process, section in sections.items():
      host = _host_process.HostProcess(process, section, timeout_s)
      self._hosts.append(host)
      self._host_of |= dict.fromkeys(section, host)
    while any(not host.is_ready for host in self._hosts):
      connection.wait(self.files(), 0.2)
      for host in self._hosts:
        host.receive()
        if not host.is_ready and time.monotonic() > (host.deadline_s or 0):
          self._expire(host)
    self._specs = {c: h.specs[c] for c, h in self._host_of.items()}
    self._identities = {
      call: {
        "call": call,
        "options": {
          k: v for k, v in self._config[call].items() if k != "process"
        },
        "version": spec["version"],
        "weights": spec["weights"],
      }
      for call, spec in self._specs.items()
    }

  def _take(self, token, call, image, box, arguments):
    """A call that is in order: known, joined to an equal one, or queued."""
    counts = self._counts[call]
    image_key = image.key if image else None
    key = cache.key_of(self._identities[call], image_key, box, arguments)
    if key in self._memory:
      counts["memory_hits"] += 1
      self._memory.move_to_end(key)
      value = self._memory[key]
    elif key in self._pending:
      counts["joined"] += 1
      self._pending[key].tokens.append(token)
      return
    else:
      value = self._read_cache(call, key, arguments)
      if value is None:
        request = _Request(
          call, key, image, box, arguments, time.monotonic(), [token]
        )
        self._pending[key] = request
        self._queues[call].append(request)
        return
      counts["disk_hits"] += 1
      self._remember(key, value)
    self._answer(call, token, tool_lib.Answer("value", value))

  def _read_cache(self, call, key, arguments):
    if self._cache is None:
      return None
    try:
      return self._cache.get(
        key, lambda value: toolbox.plain(call, value, arguments)
      )
    except cache.BrokenEntry:
      self._counts[call]["broken_cache_entries"] += 1
      return None

  def _due_s(self, call):
    """When a queue that is not empty has a batch to send by its own rules."""
    queue = self._queues[call]
    is_full = len(queue) >= self._specs[call]["batch_limit"]
    wait_s = 0.0 if is_full or queue[0].is_retry else self._batch_window_s
    return queue[0].since_s + wait_s

  def _next_batch(self, host, flush):
    """The longest waiting of a free process's batches that are due."""
    if not host.is_ready or host.batch is not None:
      return []
    now_s = time.monotonic()
    due = [
      queue
      for call, queue in self._queues.items()
      if queue and self._host_of[call] is host
      if flush or self._due_s(call) <= now_s
    ]
    if not due:
      return []
    queue = min(due, key=lambda queue: queue[0].since_s)
    batch = [queue.popleft()]
    limit = self._specs[batch[0].call]["batch_limit"]
    while queue and len(batch) < limit and not batch[0].is_retry:
      batch.append(queue.popleft())
    return batch

  def _send(self, host, batch):
    call = batch[0].call
    try:
      host.send(call, batch, [request.image for request in batch])
    except _host_process.HostLost as e:
      # It was gone before it saw the batch, which is not to blame.
      self._queues[call].extendleft(reversed(batch))
      self._restart(host, "tool_died", str(e))
      return
    self._counts[call]["batches"] += 1
    self._counts[call]["executed"] += len(batch)

  def _take_replies(self, host, replies):
    call, batch = host.take_batch()
    self._seconds[call] += time.monotonic() - host.sent_s
    kept = []
    for request, reply in zip(batch, replies, strict=True):
      if "value" in reply:
        value = reply["value"]
        self._remember(request.key, value)
        kept.append((request.key, value))
        answer = tool_lib.Answer("value", value)
      else:
        if reply["error_class"] == "bad_image":
          host.forget(request.image.key)
        answer = _fault(reply["error_class"], reply["message"])
      self._finish(request, answer)
    if self._cache and kept:
      self._cache.put(kept)

  def _expire(self, host):
    """Ends a process whose start or batch is overdue."""
    if not host.is_ready:
      raise ToolServerError(
        f"the process {host.name!r} did not make its tools in time; raise"
        " start_timeout_s if they are large"
      )
    timeout_s = self._specs[host.call]["timeout_s"]
    self._restart(host, "tool_timeout", f"it took longer than {timeout_s:g} s")

  def _restart(self, host, error_class, reason):
    """A new process; calls of the lost one's batch get one more try, alone."""
    batch, call = (host.batch or []), host.call
    host.restart()
    if batch:
      self._seconds[call] += time.monotonic() - host.sent_s
    again = []
    for request in batch:
      if request.is_retry:
        text = f"{call} expected an answer, got none: {reason}"
        self._finish(request, _fault(error_class, text))
      else:
        request.is_retry = True
        again.append(request)
    if again:
      self._counts[call]["retried"] += len(again)
      self._queues[call].extendleft(reversed(again))

  def _finish(self, request, answer):
    del self._pending[request.key]
    for token in request.tokens:
      self._answer(request.call, token, answer)

  def _answer(self, call, token, answer):
    if answer.kind == "refused":
      self._counts[call]["refused"] += 1
    if answer.kind == "fault":
      self._faults[call][answer.error_class] += 1
    self._ready.append((token, answer))

  def _remember(self, key, value):
    self._memory[key] = value
    if len(self._memory) > MAX_REMEMBERED:
      self._memory.popitem(last=False)


def _fault(error_class, message):
  line = " ".join(message.split())
  return tool_lib.Answer("fault", error_class=error_class, message=line)
