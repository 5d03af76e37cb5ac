"""Runs many untrusted programs at once, over one loop of events.

    engine = Engine(zygote, tools, in_flight=64)
    for outcome in engine.run(Job(text, image) for ...):

Each program is a contained child (see `worker`) that blocks on a socket while
it waits for a tool; so hundreds can be in flight, and their calls meet in the
tools' queues. Outcomes come in the order of the jobs, and do not depend on
how many run together.
"""

import collections
import dataclasses
import os
import select
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from data_gen.sandbox import session as session_lib
from data_gen.sandbox import zygote as zygote_lib
from data_gen.tools import tool as tool_lib

MAX_IN_FLIGHT = 512  # Each takes a descriptor here and one in the zygote.
_CLOCK_PERIOD_S = 0.1  # How late a deadline may be noticed.
_GRACE_S = 0.5  # For a child to leave after its last word.
_MOST_UNREAD = 4  # Finished runs that wait for a slow one, per place.
_MOST_LOSSES = 3  # Of the zygote; then a program that it ran is given up.
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
  job: Job
  session: Any = None
  child: Any = None
  has_hung_up: bool = False
  num_losses: int = 0
  outcome: session_lib.Outcome | None = None


class Engine:
  """Runs programs, many at a time.

  Args:
    zygote: forks and contains them.
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
    self._max_running = max_running or 2 * len(os.sched_getaffinity(0)) + 2

  def run(self, jobs: Iterable[Job]) -> Iterator[session_lib.Outcome]:
    """Runs programs to their ends; takes jobs as it has room for them.

    A program's faults, and those of its tools, are outcomes. One program runs
    at a time as far as it can tell.

    Yields:
      An outcome for each job, in their order.

    Raises:
      SandboxError: if the zygote was lost and does not start again.
    """
    loop = _Loop(self._zygote, self._tools, self._in_flight, self._max_running)
    try:
      yield from loop.run(iter(jobs))
    finally:
      loop.close()


class _Loop:
  """One pass of the engine over some jobs."""

  def __init__(self, zygote, tools, in_flight, max_running):
    self._zygote = zygote
    self._tools = tools
    self._in_flight = in_flight
    self._max_running = max_running
    self._active: dict[int, _Run] = {}  # By the child's number.
    self._waiting: set[int] = set()  # Those that wait for a tool.
    self._leaving: dict[int, tuple[zygote_lib.Child, float]] = {}
    self._by_fd: dict[int, _Run] = {}
    self._poll = select.epoll()
    self._poll.register(zygote.fileno(), select.EPOLLIN)
    self._tool_files: set[int] = set()
    self._next_clock_s = 0.0

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
        self._step(has_more and self._has_room(len(order)))
      except zygote_lib.ZygoteLost:
        self._recover(order)
      while order and (outcome := order[0].outcome) is not None:
        order.popleft()
        yield outcome

  def close(self) -> None:
    """Ends what still runs, if the caller stopped early."""
    for run in self._active.values():
      run.child.connection.close()
      try:
        self._zygote.kill(run.child)
      except zygote_lib.ZygoteLost:
        break
    self._poll.close()

  def _has_room(self, num_ordered):
    num_here = len(self._active) + len(self._leaving)
    return (
      num_here < self._in_flight
      and len(self._active) - len(self._waiting) < self._max_running
      and num_ordered < _MOST_UNREAD * self._in_flight
    )

  def _step(self, has_room):
    """Answers of tools, then whatever has happened or happens next."""
    is_stuck = not has_room and len(self._waiting) == len(self._active)
    answers = self._tools.poll(is_stuck and bool(self._waiting))
    for number, answer in answers:
      if number in self._waiting:  # Else its child is gone.
        self._waiting.remove(number)
        run = self._active[number]
        run.session.answer(answer)
        self._go_on(run)
    if not (self._active or self._leaving):
      return
    timeout_s = 0.0 if answers or has_room else self._timeout_s()
    self._watch_tools()
    for fd, event in self._poll.poll(timeout_s):
      if fd == self._zygote.fileno():
        for child, code, cpu_s in self._zygote.take_endings():
          self._take_ending(child, code, cpu_s)
      elif fd in self._by_fd:
        self._take_event(self._by_fd[fd], event)
    self._check_clocks()

  def _timeout_s(self):
    now_s = time.monotonic()
    wake_s = max(now_s, self._next_clock_s)
    deadline_s = self._tools.next_deadline_s()
    if deadline_s is not None:
      wake_s = min(wake_s, deadline_s)
    return max(0.0, wake_s - now_s)

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
    run.session = session_lib.Session(self._zygote.limits, run.job.program_text)
    run.has_hung_up = False
    run.child = self._zygote.start()
    self._active[run.child.number] = run
    fd = run.child.connection.fileno()
    self._by_fd[fd] = run
    self._poll.register(fd, select.EPOLLIN)
    self._write(run)

  def _recover(self, order):
    """A new zygote, and a new start for all that the old one took along."""
    is_lost = True
    while is_lost:
      try:
        self._start_again([run for run in order if run.outcome is None])
        is_lost = False
      except zygote_lib.ZygoteLost:
        pass  # The next round gives up on runs that this has met too often.

  def _start_again(self, runs):
    for run in list(self._active.values()):
      self._forget(run)
    self._leaving.clear()
    self._zygote.restart()
    self._poll.register(self._zygote.fileno(), select.EPOLLIN)
    for run in runs:
      run.num_losses += 1
      if run.num_losses >= _MOST_LOSSES:
        run.session.ending = "worker_died", "the sandbox's process was ended"
        run.outcome = run.session.outcome()
    for run in runs:
      if run.outcome is None:
        self._start(run)

  def _take_event(self, run, event):
    if event & select.EPOLLOUT:
      self._write(run)
    if event & ~select.EPOLLOUT:
      self._read(run)
      self._go_on(run)

  def _read(self, run):
    """One chunk into the session, or the news that no more will come."""
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
        self._leaving[run.child.number] = (
          run.child,
          time.monotonic() + _GRACE_S,
        )
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
        run.child.number,
        request.call,
        run.job.image,
        request.box,
        request.arguments,
      )

  def _finish(self, run):
    """Keeps the outcome; the child has a moment to leave by itself."""
    number = run.child.number
    self._forget(run)
    if number not in self._leaving:
      self._leaving[number] = run.child, time.monotonic() + _GRACE_S
    run.outcome = run.session.outcome()

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
    session = run.session
    while session.ending is None and self._read(run):
      pass  # Its last words may still be on the way.
    if session.ending is None:
      session.ending = zygote_lib.ending_of(code, cpu_s, self._zygote.limits)
    self._finish(run)
    self._leaving.pop(child.number, None)

  def _check_clocks(self):
    """Ends programs whose time is up, and children that do not leave."""
    now_s = time.monotonic()
    if now_s < self._next_clock_s:
      return
    self._next_clock_s = now_s + _CLOCK_PERIOD_S
    late = [r for r in self._active.values() if r.session.deadline_s <= now_s]
    for run in late:
      run.session.expire()
      self._finish(run)
      self._zygote.kill(run.child)
    for number, (child, deadline_s) in list(self._leaving.items()):
      if deadline_s <= now_s:
        self._leaving[number] = child, now_s + 60 * _GRACE_S
        self._zygote.kill(child)
