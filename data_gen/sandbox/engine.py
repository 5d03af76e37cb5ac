"""Runs many untrusted programs at once, over one loop of events.

    engine = Engine(zygote, tools, in_flight=64)
    for outcome in engine.run(Job(text, image) for ...):

Each program is a contained child (see `worker`) that blocks on a socket while
it waits for a tool; so hundreds can be in flight, and their calls meet in the
tools' queues. Outcomes come in the order of the jobs, and do not depend on
how many run together: few are let run at a time, whatever is in flight, and a
stall of this process counts for nobody's wall time.
"""

import collections
import dataclasses
import os
import select
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from data_gen.sandbox import session as session_lib
from data_gen.sandbox import worker
from data_gen.sandbox import zygote as zygote_lib
from data_gen.tools import tool as tool_lib

MAX_IN_FLIGHT = 512  # Each takes a descriptor here and one in the zygote.
_CLOCK_PERIOD_S = 0.1  # How late a deadline may be noticed.
_GRACE_S = 0.5  # For a child to leave after its last word.
_MOST_UNREAD = 4  # Finished runs that wait for a slow one, per place.
_MOST_LOSSES = 2  # Of a zygote that ran this program alone.
_MOST_NO_FORKS = 20  # In a row, a tenth of a second apart.
_LONGEST_STEP_S = 0.25  # Of the clock that wall time is measured by.
_CHUNK_BYTES = 1 << 16


class Tools(Protocol):
  """Answers tool calls, some time after they are submitted."""

  def submit(
    self,
    token: Hashable,
    call: str,
    image: Any,
    box: tuple[int, int, int, int] | None,
    arguments: Mapping[str, Any],
  ) -> None:
    """Takes a call; its answer comes from `poll` with this token."""

  def poll(self, flush: bool) -> list[tuple[Any, tool_lib.Answer]]:
    """Answers that are there, without waiting; `flush`: no program can go on
    without one, so nothing is gained by gathering more calls."""
    ...

  def files(self) -> Sequence[int]:
    """Descriptors that are readable when `poll` may have more."""
    ...

  def next_deadline_s(self) -> float | None:
    """Monotonic time at which `poll` has something to do; None if never."""
    ...


@dataclasses.dataclass(frozen=True)
class Job:
  """A program to run.

  Attributes:
    program_text: as the writer gave it; `parse.extract` is applied.
    image: what `Tools.submit` is given with its calls; None without one.
  """

  program_text: str
  image: Any = None


@dataclasses.dataclass(eq=False)
class _Run:
  job: Job | None
  session: Any = None
  child: Any = None
  has_hung_up: bool = False
  num_losses: int = 0
  outcome: session_lib.Outcome | None = None


class Engine:
  """Runs programs, many at a time.

  Args:
    zygote: forks and contains them; serves one pass of one engine at a time.
    tools: answers their calls.
    in_flight: most programs at a time, those that wait for a tool included.
    max_running: most that run at a time, that is wait for no tool; more than
      the cores can serve would only use up each other's wall time. None: a few
      more than this process's cores.

  Raises:
    ValueError: if a number makes no sense.
  """

  def __init__(
    self,
    zygote: zygote_lib.Zygote,
    tools: Tools,
    *,
    in_flight: int = 64,
    max_running: int | None = None,
  ):
    if not 1 <= in_flight <= MAX_IN_FLIGHT:
      raise ValueError(
        f"in_flight={in_flight} must be from 1 to {MAX_IN_FLIGHT}"
      )
    self._zygote = zygote
    self._tools = tools
    self._in_flight = in_flight
    self._max_running = max_running or len(os.sched_getaffinity(0)) + 2

  def run(self, jobs: Iterable[Job]) -> Iterator[session_lib.Outcome]:
    """Runs programs to their ends; takes jobs as it has room for them.

    A program's faults, and those of its tools, are outcomes.

    Yields:
      An outcome for each job, in their order.

    Raises:
      SandboxError: if the zygote was lost and does not start again, or the
        host has no more processes or descriptors.
      RuntimeError: if another pass over the zygote has not ended.
      ToolServerError: what `Tools.poll` raises.
    """
    with self._zygote.reserved():
      loop = _Loop(
        self._zygote, self._tools, self._in_flight, self._max_running
      )
      try:
        yield from loop.run(iter(jobs))
      finally:
        loop.close()


class _Loop:
  """One pass of the engine over some jobs.

  Tokens of tool calls are (loop, number of the child): an answer that another
  pass over the same tools takes along is handed to the loop that it is for.
  """

  def __init__(self, zygote, tools, in_flight, max_running):
    self._zygote = zygote
    self._tools = tools
    self._in_flight = in_flight
    self._max_running = max_running
    self._active: dict[int, _Run] = {}  # By the child's number.
    self._waiting: set[int] = set()  # Those that wait for a tool.
    self._answers: collections.deque[tuple[int, tool_lib.Answer]] = (
      collections.deque()
    )
    self._leaving: dict[int, tuple[zygote_lib.Child, float]] = {}
    self._suspects: collections.deque[_Run] = collections.deque()
    self._unforked: collections.deque[_Run] = collections.deque()
    self._num_no_forks = 0
    self._by_fd: dict[int, _Run] = {}
    self._poll = select.epoll()
    self._poll.register(zygote.fileno(), select.EPOLLIN)
    self._tool_files: set[int] = set()
    self._clock_s = 0.0
    self._seen_s = time.monotonic()
    self._next_check_s = 0.0

  def run(self, jobs: Iterator[Job]) -> Iterator[session_lib.Outcome]:
    order: collections.deque[_Run] = collections.deque()
    has_more = True
    while has_more or order:
      try:
        while has_more and self._has_room(len(order)):
          job = next(jobs, None)
          has_more = job is not None
          if job is not None:
            order.append(_Run(job))
            self._start(order[-1])
        if not self._active:
          self._start_one_again()
        self._step(has_more and self._has_room(len(order)))
      except zygote_lib.ZygoteLost:
        self._recover([run for run in order if run.outcome is None])
      while order and (outcome := order[0].outcome) is not None:
        order.popleft()
        yield outcome

  def close(self) -> None:
    """Ends what still runs, if the caller stopped early."""
    children = [run.child for run in self._active.values()]
    children += [child for child, _ in self._leaving.values()]
    for child in children:
      child.connection.close()
      try:
        self._zygote.kill(child)
      except zygote_lib.ZygoteLost:
        break
    self._poll.close()

  def _num_running(self):
    return len(self._active) - len(self._waiting)

  def _has_room(self, num_ordered):
    return (
      not (self._suspects or self._unforked)
      and len(self._active) + len(self._leaving) < self._in_flight
      and self._num_running() < self._max_running
      and num_ordered < _MOST_UNREAD * self._in_flight
    )

  def _step(self, has_room):
    """Answers of tools, then whatever has happened or happens next."""
    is_stuck = not has_room and len(self._waiting) == len(self._active)
    is_stuck = is_stuck and not self._answers and bool(self._waiting)
    for token, answer in self._tools.poll(is_stuck):
      loop, number = token
      loop._answers.append((number, answer))
    has_gone_on = self._give_answers()
    if not (self._active or self._leaving):
      return
    timeout_s = 0.0 if has_gone_on or has_room else self._timeout_s()
    self._watch_tools()
    events = self._poll.poll(timeout_s)
    self._tick()
    for fd, event in events:
      if fd == self._zygote.fileno():
        for child, code, cpu_s in self._zygote.take_endings():
          self._take_ending(child, code, cpu_s)
      elif fd in self._by_fd:
        self._take_event(self._by_fd[fd], event)
    self._check_clocks()

  def _give_answers(self):
    """Lets programs go on, as many as may run; whether one did."""
    has_gone_on = False
    while self._answers and self._num_running() < self._max_running:
      number, answer = self._answers.popleft()
      if number in self._waiting:  # Else its child is gone.
        self._waiting.remove(number)
        run = self._active[number]
        run.session.answer(answer)
        self._go_on(run)
        has_gone_on = True
    return has_gone_on

  def _tick(self):
    """Moves the clock on, by little if this process was held up."""
    now_s = time.monotonic()
    self._clock_s += min(now_s - self._seen_s, _LONGEST_STEP_S)
    self._seen_s = now_s

  def _timeout_s(self):
    wake_s = max(0.0, self._next_check_s - self._clock_s)
    deadline_s = self._tools.next_deadline_s()
    if deadline_s is not None:
      wake_s = min(wake_s, max(0.0, deadline_s - time.monotonic()))
    return wake_s

  def _watch_tools(self):
    files = set(self._tools.files())
    if files != self._tool_files:
      for fd in self._tool_files - files:
        try:
          self._poll.unregister(fd)
        except OSError:
          pass  # Closed meanwhile, and so not watched any more.
      for fd in files:
        try:
          self._poll.register(fd, select.EPOLLIN)
        except FileExistsError:
          pass
      self._tool_files = files

  def _start(self, run):
    run.session = session_lib.Session(
      self._zygote.limits, run.job.program_text, lambda: self._clock_s
    )
    run.has_hung_up = False
    run.child = self._zygote.start()
    self._active[run.child.number] = run
    fd = run.child.connection.fileno()
    self._by_fd[fd] = run
    self._poll.register(fd, select.EPOLLIN)
    self._write(run)

  def _start_one_again(self):
    """The next of those that were lost with a zygote, or not forked; alone."""
    if self._suspects:
      self._start(self._suspects.popleft())
    elif self._unforked:
      if self._num_no_forks > _MOST_NO_FORKS:
        raise zygote_lib.SandboxError(
          "the sandbox cannot make processes: memory or the limit of processes"
          " (ulimit -u) is used up."
        )
      if self._num_no_forks:
        time.sleep(_CLOCK_PERIOD_S)
      self._start(self._unforked.popleft())

  def _recover(self, runs):
    """A new zygote. What the old one took along runs alone from now on, so
    that a program which ends its zygote takes nobody else with it."""
    is_to_blame = len(self._active) == 1
    for run in list(self._active.values()):
      run.num_losses += is_to_blame
      self._forget(run)
    self._leaving.clear()
    self._unforked.clear()
    for run in runs:
      if run.num_losses >= _MOST_LOSSES:
        run.session.ending = "worker_died", "the sandbox's process was ended"
        self._keep_outcome(run)
    self._suspects = collections.deque(r for r in runs if r.outcome is None)
    self._zygote.restart()
    self._poll.register(self._zygote.fileno(), select.EPOLLIN)

  def _take_event(self, run, event):
    if event & select.EPOLLOUT:
      self._write(run)
    if event & ~select.EPOLLOUT:
      self._read(run)
      self._go_on(run)

  def _read(self, run):
    """Takes one chunk into the session; whether there was one."""
    try:
      data = run.child.connection.recv(_CHUNK_BYTES)
    except BlockingIOError:
      return False
    except OSError:
      data = b""
    if not data:
      if not run.has_hung_up:
        run.has_hung_up = True
        self._poll.unregister(run.child.connection.fileno())
        self._expect_to_leave(run.child)
      return False
    run.session.receive(data)
    return True

  def _write(self, run):
    """As much of the outbox as the socket takes."""
    outbox = run.session.outbox
    if outbox:
      try:
        sent = run.child.connection.send(outbox)
      except BlockingIOError:
        sent = 0
      except OSError:  # It is gone; its ending will say how.
        sent = len(outbox)
      del outbox[:sent]
    self._watch(run)

  def _watch(self, run):
    """Listens as the session needs it: not while it waits for a tool, for a
    child that goes on talking then is none of ours."""
    if run.has_hung_up:
      return
    events = 0 if run.session.pending else select.EPOLLIN
    if run.session.outbox:
      events |= select.EPOLLOUT
    self._poll.modify(run.child.connection.fileno(), events)

  def _go_on(self, run):
    """Does what the session's new state asks for."""
    session = run.session
    if session.ending is not None:
      self._finish(run)
    elif session.pending is None:
      if session.outbox:
        self._write(run)
    elif run.child.number not in self._waiting:
      request = session.pending
      self._waiting.add(run.child.number)
      self._watch(run)
      self._tools.submit(
        (self, run.child.number),
        request.call,
        run.job.image,
        request.box,
        request.arguments,
      )

  def _finish(self, run):
    """Keeps the outcome; the child has a moment to leave by itself."""
    self._forget(run)
    if run.child.number not in self._leaving:
      self._expect_to_leave(run.child)
    self._keep_outcome(run)

  def _keep_outcome(self, run):
    run.outcome = run.session.outcome()
    run.job = run.session = None  # It may wait long for a slow one before it.

  def _expect_to_leave(self, child):
    self._leaving[child.number] = child, self._clock_s + _GRACE_S

  def _forget(self, run):
    del self._active[run.child.number]
    self._waiting.discard(run.child.number)
    del self._by_fd[run.child.connection.fileno()]
    run.child.connection.close()

  def _take_ending(self, child, code, cpu_s):
    self._leaving.pop(child.number, None)
    run = self._active.get(child.number)
    if run is None:
      return
    if code == worker.NO_FORK:
      self._forget(run)
      self._unforked.append(run)
      self._num_no_forks += 1
      self._in_flight = max(1, len(self._active))  # What the host can hold.
      return
    self._num_no_forks = 0
    session = run.session
    while session.ending is None and self._read(run):
      pass  # Its last words may still be on the way.
    if session.ending is None:
      session.ending = zygote_lib.ending_of(code, cpu_s, self._zygote.limits)
    self._finish(run)
    self._leaving.pop(child.number, None)

  def _check_clocks(self):
    """Ends programs whose time is up, and children that do not leave."""
    now_s = self._clock_s
    if now_s < self._next_check_s:
      return
    self._next_check_s = now_s + _CLOCK_PERIOD_S
    late = [r for r in self._active.values() if r.session.deadline_s <= now_s]
    for run in late:
      run.session.expire()
      self._finish(run)
      self._zygote.kill(run.child)
    for number, (child, deadline_s) in list(self._leaving.items()):
      if deadline_s <= now_s:
        self._leaving[number] = child, now_s + 60 * _GRACE_S
        self._zygote.kill(child)
