"""Against a stub HTTP server in this process."""

import contextlib
import http.server
import json
import threading
import time

import pytest

from data_gen.llm import cache, client, openai_compatible

REQUEST = client.Request(
  messages=(client.Message("user", "Hello"),),
  n=3,
  temperature=0.5,
  stop=("\n#",),
  seed=7,
)


def reply(*texts, logprobs=None, **usage):
  choices = []
  for text in texts:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    if logprobs:
      choice["logprobs"] = {"content": [{"logprob": v} for v in logprobs]}
    choices.append(choice)
  return {"choices": choices, "usage": usage}


class Server:
  """Answers POSTs with a script: (status, body) or a function of the body."""

  def __init__(self, *script):
    self.script = list(script)
    self.bodies = []
    self.headers = []
    self.lock = threading.Lock()
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with outer.lock:
          outer.bodies.append(body)
          outer.headers.append(self.headers)
          step = outer.script.pop(0) if outer.script else outer.last
          outer.last = step
        if callable(step):
          step = step(body)
        status, content, *headers = step
        data = (
          content
          if isinstance(content, bytes)
          else (json.dumps(content).encode())
        )
        with contextlib.suppress(BrokenPipeError):
          self.send_response(status)
          for name, value in headers:
            self.send_header(name, value)
          self.end_headers()
          self.wfile.write(data)

      def log_message(self, *_):
        pass

    self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.thread = threading.Thread(
      target=self.server.serve_forever, args=(0.01,)
    )

  def __enter__(self):
    self.thread.start()
    self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
    return self

  def __exit__(self, *_):
    self.server.shutdown()
    self.server.server_close()
    self.thread.join()

  def client(self, **options):
    options = {"retry_wait_s": 0.01, "timeout_s": 5.0} | options
    return openai_compatible.Client("m", self.url, **options)


def texts(answers):
  return [[c.text for c in completions] for completions in answers]


def test_sends_the_request_and_reads_the_reply(monkeypatch):
  monkeypatch.setenv("VPD_LLM_API_KEY", "secret")
  body = reply("a", "b", "c", logprobs=[-1.0, -3.0])
  with Server((200, body)) as server:
    backend = server.client()
    answers = backend.complete([REQUEST])
  assert texts(answers) == [["a", "b", "c"]]
  assert answers[0][0] == client.Completion("a", -2.0, "stop")
  assert backend.name == "openai_compatible/m"
  assert server.headers[0]["Authorization"] == "Bearer secret"
  assert server.bodies == [
    {
      "model": "m",
      "messages": [{"role": "user", "content": "Hello"}],
      "n": 3,
      "temperature": 0.5,
      "max_tokens": 512,
      "seed": 7,
      "stop": ["\n#"],
      "logprobs": True,
    }
  ]


def test_fewer_choices_than_asked_for_are_asked_for_again():
  steps = [(200, reply("a")), (200, reply("b")), (200, reply("c"))]
  with Server(*steps) as server:
    answers = server.client(wants_scores=False).complete([REQUEST])
  assert texts(answers) == [["a", "b", "c"]]
  assert [(b["n"], b["seed"]) for b in server.bodies] == [
    (3, 7),
    (2, 8),
    (1, 9),
  ]
  assert answers[0][0].score is None
  assert "logprobs" not in server.bodies[0]


def test_more_choices_than_asked_for_are_cut():
  with Server((200, reply("a", "b", "c", "d"))) as server:
    assert texts(server.client().complete([REQUEST])) == [["a", "b", "c"]]


@pytest.mark.parametrize(
  "fault",
  [
    (429, {"error": "slow down"}, ("Retry-After", "0.01")),
    (500, b"oops"),
    (503, b""),
    (200, b"{not json"),
  ],
)
def test_passing_faults_are_tried_again(fault):
  with Server(fault, fault, (200, reply("a", "b", "c"))) as server:
    backend = server.client()
    assert texts(backend.complete([REQUEST])) == [["a", "b", "c"]]
  assert len(server.bodies) == 3


def test_a_time_out_is_tried_again_then_named():
  def slow(body):
    time.sleep(0.5)
    return 200, reply("a")

  with Server(slow) as server:
    backend = server.client(timeout_s=0.1, max_retries=1)
    with pytest.raises(
      client.LLMError,
      match=r"/v1/chat/completions.*no reply in 0\.1 s.*2 tries",
    ):
      backend.complete([REQUEST])


@pytest.mark.parametrize(
  "fault, message",
  [
    ((401, {"error": "bad key"}), r"HTTP 401: .*bad key.*VPD_LLM_API_KEY"),
    ((404, b"no model"), r"model 'm': HTTP 404: no model\. Check config\.llm"),
    ((400, b"too long"), "HTTP 400: too long"),
    ((200, {"error": "x"}), "a reply without choices"),
    ((200, {"choices": []}), "no choice in"),
    ((200, {"choices": [{"text": "old"}]}), "a reply without choices"),
    ((500, b"down"), r"HTTP 500: down\. Gave up after 2 tries"),
  ],
)
def test_lasting_faults_are_named(fault, message):
  with Server(fault) as server:
    with pytest.raises(client.LLMError, match=message):
      server.client(max_retries=1).complete([REQUEST])


def test_no_server_is_named():
  backend = openai_compatible.Client(
    "m", "http://127.0.0.1:9/v1", max_retries=1, retry_wait_s=0.01
  )
  with pytest.raises(client.LLMError, match=r"no connection: .*refused"):
    backend.complete([REQUEST])


def test_a_url_without_a_scheme_is_refused():
  with pytest.raises(ValueError, match="must begin with http"):
    openai_compatible.Client("m", "localhost:8000/v1")


def test_requests_run_side_by_side_and_answers_keep_their_order():
  running, most = [0], [0]
  lock = threading.Lock()

  def echo(body):
    with lock:
      running[0] += 1
      most[0] = max(most[0], running[0])
    time.sleep(0.05)
    with lock:
      running[0] -= 1
    return 200, reply(body["messages"][0]["content"])

  requests = [
    client.Request((client.Message("user", str(i)),)) for i in range(8)
  ]
  with Server(echo) as server:
    answers = server.client(num_threads=4).complete(requests)
  assert texts(answers) == [[str(i)] for i in range(8)]
  assert 2 <= most[0] <= 4


def test_the_cache_asks_once(tmp_path):
  with Server((200, reply("a", "b", "c", logprobs=[-1.0]))) as server:
    options = {"model": "m", "base_url": server.url, "cache_dir": str(tmp_path)}
    first = cache.connect("openai_compatible", **options)
    answers = first.complete([REQUEST, REQUEST])
    again = cache.connect("openai_compatible", **options).complete([REQUEST])
    assert len(server.bodies) == 1
    other = client.Request(REQUEST.messages, n=3, seed=8)
    first.complete([other])
  assert answers == [again[0], again[0]]
  assert first.name == "openai_compatible/m"
  assert len(server.bodies) == 2


def test_a_damaged_cache_file_is_named(tmp_path):
  with Server((200, reply("a", "b", "c"))) as server:
    options = {"model": "m", "base_url": server.url, "cache_dir": str(tmp_path)}
    cache.connect("openai_compatible", **options).complete([REQUEST])
    path = next(tmp_path.glob("*/*.json"))
    path.write_text("[")
    with pytest.raises(ValueError, match=r"\.json is damaged .* delete it"):
      cache.connect("openai_compatible", **options).complete([REQUEST])
