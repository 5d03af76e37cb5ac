"""The report folder: what is in it, and that no row becomes markup."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

from data_gen.report import charts, markup, read, summary, viewer

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def report(workdir, runs_dir, tmp_path_factory):
  out = tmp_path_factory.mktemp("report")
  runs = read.training_runs(runs_dir)
  viewer.write(out, [workdir], runs, summary.build([workdir], runs))
  return out


def examples(folder):
  text = (folder / "examples.js").read_text()
  assert text.startswith("window.EXAMPLES = ") and text.endswith(";\n")
  return json.loads(text[len("window.EXAMPLES = ") : -2])


def test_files(report):
  assert sorted(p.name for p in report.iterdir()) == [
    "examples.html",
    "examples.js",
    "images",
    "index.html",
    "style.css",
    "summary.json",
    "viewer.js",
  ]


def first_page(workdir, runs_dir, out):
  runs = read.training_runs(runs_dir)
  viewer.write(out, [workdir], runs, summary.build([workdir], runs))
  return (out / "index.html").read_text()


@pytest.mark.parametrize(
  ("bases", "said", "not_said"),
  [
    (("a", "a"), "data order only, the base is one", "its own base"),
    (("a", "b"), "Each seed has its own base", "the base is one"),
    (("", ""), "these runs name no base", "the base is one"),
  ],
)
def test_limits_follow_the_bases(
  workdir, make, tmp_path, bases, said, not_said
):
  for seed, base in enumerate(bases):
    for arm in ("twin", "vpd"):
      make[1](
        tmp_path / "runs", f"{arm}-s{seed}", bool, False, seed=seed, base=base
      )
  page = first_page(workdir, tmp_path / "runs", tmp_path / "report")
  assert said in page and not_said not in page
  assert "label-free" not in page


def test_limits_of_label_free_arms(workdir, make, tmp_path):
  make[1](tmp_path / "runs", "pseudo", bool, False)
  page = first_page(workdir, tmp_path / "runs", tmp_path / "report")
  assert "pick their checkpoint on labelled validation questions" in page


def test_limits_of_one_simulated_world(report):
  page = (report / "index.html").read_text()
  for words in (
    "This is one world",
    "says nothing about natural images",
    "no evidence that rationales help in general",
    "stands in for an LLM",
    "saw them in “find” prompts",
    "trained with one seed, from one base",
  ):
    assert words in page, words


def test_costs_on_the_page(report):
  page = (report / "index.html").read_text()
  assert "decoded in batches of 200, on 1 core, compiling" in page
  assert "1.50e+13" in page and "4.00 ms" in page
  assert "Writing and running 3 programs" in page and "250.00 ms" in page
  assert "on 2 workers" in page


def test_no_address_of_another_host(report):
  for path in report.glob("*.*"):
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text and "https:" not in text, path.name


def test_every_example_has_its_picture_programs_and_students(report):
  found = examples(report)
  assert len(found) == 24
  for example in found:
    assert (report / example["image"]).read_bytes()[:2] == b"\xff\xd8"
    assert len(example["programs"]) == 3
    assert example["programs"][1]["error"] == "index"
    first_step = example["programs"][0]["steps"][0]
    assert first_step["text"].startswith("find('square')")
  students = [e["students"] for e in found if e["split"] == "test_iid"]
  assert [s["arm"] for s in students[0]] == [
    "twin",
    "twin_equal_compute",
    "vpd",
  ]


def test_outcomes(report):
  by_id = {e["id"]: e["outcomes"] for e in examples(report)}
  assert by_id["test_iid-q0"] == ["twin_only", "rationale_kept"]
  assert by_id["test_iid-q1"] == ["vpd_only", "rationale_kept"]
  assert by_id["test_iid-q6"] == ["both_right", "no_rationale"]
  assert by_id["train-q6"] == ["no_rationale"]


def test_boxes_of_steps_and_groups(report):
  example = examples(report)[0]
  find, printed, output = example["programs"][0]["steps"]
  assert find["boxes"] == [[62, 62, 271, 271], [396, 687, 604, 895]]
  assert printed["boxes"] == [[62, 62, 271, 271]]
  assert output["boxes"] == []
  assert [len(g["boxes"]) for g in example["rationale"]] == [1, 1, 0]


def test_rows_never_become_markup(report):
  assert "<b>thing" not in (report / "index.html").read_text()
  script = (report / "viewer.js").read_text()
  for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval("):
    assert risky not in script


def test_limit_is_spread_over_split_family_and_outcome(workdir, tmp_path):
  viewer.write(
    tmp_path, [workdir], [], summary.build([workdir], []), num_examples=12
  )
  found = examples(tmp_path)
  assert len(found) == 12
  kinds = {(e["split"], e["family"], *e["outcomes"]) for e in found}
  assert len(kinds) == 12


def test_first_folder_takes_what_the_others_leave(workdir, make, tmp_path):
  small = make[0](tmp_path / "small", num_questions=2)
  folders = [workdir, small]
  viewer.write(
    tmp_path, folders, [], summary.build(folders, []), num_examples=20
  )
  ids = [example["data"] for example in examples(tmp_path)]
  assert [ids.count(name) for name in sorted(set(ids))] in ([4, 16], [16, 4])


def test_same_bytes_twice(report, workdir, runs_dir, tmp_path):
  runs = read.training_runs(runs_dir)
  viewer.write(tmp_path, [workdir], runs, summary.build([workdir], runs))
  for path in sorted(report.rglob("*.*")):
    if path.is_file():
      again = tmp_path / path.relative_to(report)
      assert again.read_bytes() == path.read_bytes(), path.name


def test_old_pictures_are_removed(workdir, tmp_path):
  (tmp_path / "images").mkdir()
  (tmp_path / "images" / "old.jpg").write_bytes(b"old")
  viewer.write(tmp_path, [workdir], [], summary.build([workdir], []))
  assert not (tmp_path / "images" / "old.jpg").exists()


def test_markup_escapes():
  node = markup.element(
    "p", "a < b & ", markup.element("b", "<i>"), "\x00\x1bx", title='"<'
  )
  # Some Python versions write a bare < in attributes, which HTML allows.
  assert markup.html(node).replace('&lt;"', '<"', 1) == (
    '<p title="&quot;<">a &lt; b &amp; <b>&lt;i&gt;</b>x</p>'
  )


def test_line_chart_places_points():
  chart = markup.html(
    charts.lines(
      {"a": [(0, 0.0), (10, 1.0)]},
      title="t",
      x_label="x",
      y_top=1.0,
      classes={"a": "s0"},
    )
  )
  # The plot's corners: left 40, bottom 220 - 34; right 360 - 12, top 12.
  assert 'points="40.0,186.0 348.0,12.0"' in chart


@pytest.mark.parametrize("values", [[(0, 1.0)], [(5, 0.0), (5, 0.0)]])
def test_line_chart_of_little(values):
  chart = charts.lines(
    {"a": values}, title="t", x_label="x", classes={"a": "s0"}
  )
  assert "nan" not in markup.html(chart)


def test_long_curve_is_thinned():
  points = [(i, 1.0) for i in range(5000)]
  chart = charts.lines(
    {"a": points}, title="t", x_label="x", classes={"a": "s0"}
  )
  line = markup.html(chart).partition('points="')[2].partition('"')[0]
  assert 60 <= len(line.split()) <= 120


def make_report(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "data_gen.make_report", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_entry_prints_table_and_page(workdir, runs_dir, tmp_path):
  done = make_report(
    f"--data={workdir}", f"--runs={runs_dir}", f"--out={tmp_path / 'r'}"
  )
  assert done.returncode == 0, done.stderr
  assert "VPD student: rationale, then answer" in done.stdout
  assert done.stdout.strip().endswith(f"Report: {tmp_path / 'r/index.html'}")


def test_entry_says_what_is_wrong(tmp_path):
  done = make_report(f"--data={tmp_path}", f"--out={tmp_path / 'r'}")
  assert done.returncode == 1
  assert "has no questions/*.jsonl" in done.stderr
  assert "Traceback" not in done.stderr


def test_help_is_quick():
  start = time.monotonic()
  done = make_report("--help")
  assert done.returncode == 0 and "--data" in done.stdout
  assert time.monotonic() - start < 2
