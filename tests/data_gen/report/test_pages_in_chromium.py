"""The pages in a real browser: they render, filter, fit and do not complain.

A narrow window is an <iframe> of 390 px, as a headless window has a least
width of 500 px; its page is asked for its width from outside.
"""

import html
import json
import pathlib
import re
import shutil
import subprocess

import pytest

from data_gen.report import read, summary, viewer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
  CHROMIUM is None, reason="needs chromium (Debian: apt install chromium)"
)

PROBE = """<!doctype html><body>
<iframe id="frame" src="{url}" style="width:{width}px;height:900px"></iframe>
<script>
const frame = document.getElementById("frame");
const wait = () => new Promise((done) => setTimeout(done, 100));
frame.addEventListener("load", async () => {{
  const page = frame.contentDocument;
  const count = (selector) => page.querySelectorAll(selector).length;
  await wait();
  const found = [];
  {act}
  const out = document.createElement("output");
  out.textContent = JSON.stringify(found);
  document.body.append(out);
}}, {{once: true}});
</script></body>"""


@pytest.fixture(scope="module")
def report(workdir, runs_dir, tmp_path_factory):
  out = tmp_path_factory.mktemp("report")
  runs = read.training_runs(runs_dir)
  viewer.write(out, [workdir], runs, summary.build([workdir], runs))
  return out


def dump(url: str, profile: pathlib.Path) -> tuple[str, list[str]]:
  """The page after its scripts ran, and what its console said."""
  done = subprocess.run(
    [
      CHROMIUM,
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--allow-file-access-from-files",
      "--enable-logging=stderr",
      "--virtual-time-budget=3000",
      f"--user-data-dir={profile}",
      "--dump-dom",
      url,
    ],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
  return done.stdout, console


def probe(report, tmp_path, page, act, width=390):
  """What the script `act` pushes onto `found`, with the page in a frame."""
  frame = tmp_path / "frame.html"
  url = (report / page).as_uri()
  frame.write_text(PROBE.format(url=url, width=width, act=act))
  dom, console = dump(frame.as_uri(), tmp_path / "profile")
  assert console == []
  found = re.search(r"<output>(.*)</output>", dom)
  assert found, dom[-500:]
  return json.loads(html.unescape(found[1]))


def test_console_is_heard(tmp_path):
  page = tmp_path / "page.html"
  page.write_text("<script>throw new Error('heard')</script>")
  _, console = dump(page.as_uri(), tmp_path / "profile")
  assert any("heard" in line for line in console)


def test_overview_renders(report, tmp_path):
  dom, console = dump((report / "index.html").as_uri(), tmp_path / "profile")
  assert console == []
  assert "On test_iid, the student trained with rationales is" in dom
  assert "Any of 3 programs right" in dom
  assert dom.count("<polyline") == 6  # Two splits, three losses, one loss.
  assert "find recall" not in dom and "find · recall" in dom


def test_examples_filter_by_hash(report, tmp_path):
  page = (report / "examples.html").as_uri()
  dom, console = dump(f"{page}#family=count", tmp_path / "profile")
  assert console == []
  assert "1 of 8 examples" in dom
  assert "What about the count &lt;b&gt;thing&lt;/b&gt; &amp; its" in dom
  assert "What about the attr" not in dom
  assert "&lt;script&gt;alert(1)&lt;/script&gt;" in dom


def test_filters(report, tmp_path):
  expected = {
    "": 24,
    "split=test_iid": 12,
    "outcome=vpd_only": 6,
    "outcome=twin_only": 1,
    "split=train&family=cmp&outcome=no_rationale": 1,
    "words=ATTR": 8,
    "family=nothing": 0,
  }
  act = f"""
  for (const query of {json.dumps(list(expected))}) {{
    frame.contentWindow.location.hash = query;
    await wait();
    found.push(count(".thumb"));
  }}"""
  found = probe(report, tmp_path, "examples.html", act)
  assert dict(zip(expected, found)) == expected


def test_controls(report, tmp_path):
  act = """
  page.querySelectorAll("[role=tab]")[2].click();
  found.push(count("[role=tab]:nth-child(3)[aria-selected=true]"));
  page.querySelectorAll(".step")[0].click();
  found.push(count("rect.box.b0"));
  const first = page.querySelector(".thumb");
  first.focus();
  first.dispatchEvent(
    new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true}));
  found.push(count(".thumb:nth-child(2)[aria-current=true]"));
  const split = page.getElementById("split");
  split.value = "train";
  split.dispatchEvent(new Event("change"));
  found.push(count(".thumb"));
  found.push(frame.contentWindow.location.hash);
  """
  tabs, boxes, moved, thumbs, address = probe(
    report, tmp_path, "examples.html", act
  )
  assert (tabs, boxes, moved, thumbs) == (1, 2, 1, 12)
  assert address.startswith("#split=train")


@pytest.mark.parametrize("page", ["index.html", "examples.html"])
def test_nothing_hangs_over_the_edge(report, tmp_path, page):
  act = """
  for (const width of [390, 760, 1280]) {
    frame.style.width = width + "px";
    await wait();
    const root = page.documentElement;
    found.push([root.scrollWidth, root.clientWidth]);
  }"""
  found = probe(report, tmp_path, page, act)
  assert [width for _, width in found] == pytest.approx(
    [390, 760, 1280], abs=20
  )
  assert all(content <= window for content, window in found), found
