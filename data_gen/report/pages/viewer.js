// Shows window.EXAMPLES. Everything from a row goes in as text, never as HTML.
"use strict";

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const FILTERS = ["data", "split", "family", "outcome"];
  const OUTCOMES = {
    vpd_only: "Only VPD right",
    twin_only: "Only the twin right",
    both_right: "Both students right",
    both_wrong: "Both students wrong",
    rationale_kept: "Rationale kept",
    no_rationale: "No rationale",
  };
  const DECISIONS = {
    kept: "kept",
    right: "right, another kept",
    wrong_answer: "wrong answer",
    no_tool_call: "used no tool",
  };
  const ARMS = {
    twin: "Twin (labels only)",
    twin_equal_compute: "Twin, equal compute",
    vpd: "VPD student",
  };

  const $ = (id) => document.getElementById(id);
  const all = window.EXAMPLES;
  const state = { data: "", split: "", family: "", outcome: "", words: "", id: "" };
  let shown = [];

  function make(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "class") node.className = value;
      else if (name === "on") {
        for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      } else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  }

  function shape(tag, attributes) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }

  const valuesOf = (example, name) =>
    name === "outcome" ? example.outcomes : [example[name]];

  const label = (name, value) =>
    (name === "outcome" && OUTCOMES[value]) || value || "none";

  function matches(example, except) {
    for (const name of FILTERS) {
      if (name === except || !state[name]) continue;
      if (!valuesOf(example, name).includes(state[name])) return false;
    }
    return example.question.toLowerCase().includes(state.words.toLowerCase());
  }

  function readHash() {
    const hash = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(state)) state[name] = hash.get(name) || "";
  }

  function writeHash() {
    const hash = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value) hash.set(name, value);
    history.replaceState(null, "", "#" + hash.toString());
  }

  function set(changes) {
    Object.assign(state, changes);
    writeHash();
    render();
  }

  function renderFilters() {
    for (const name of FILTERS) {
      const counts = new Map();
      for (const example of all) {
        for (const value of valuesOf(example, name)) {
          const here = matches(example, name) ? 1 : 0;
          counts.set(value, (counts.get(value) || 0) + here);
        }
      }
      const select = $(name);
      select.replaceChildren(
        make("option", { value: "" }, "All"),
        ...[...counts].map(([value, count]) =>
          make("option", { value }, `${label(name, value)} (${count})`)),
      );
      select.value = state[name];
      select.parentElement.hidden = counts.size < 2;
    }
    if (document.activeElement !== $("words")) $("words").value = state.words;
  }

  function renderList() {
    $("list").replaceChildren(
      ...shown.map((example) => {
        const current = example.id === state.id;
        return make(
          "button",
          {
            type: "button",
            class: "thumb",
            "aria-current": current ? "true" : null,
            on: { click: () => choose(example.id) },
          },
          make("img", { src: example.image, alt: "", loading: "lazy", width: 48, height: 48 }),
          make("span", {}, example.question,
            make("small", {}, [example.split, example.family].filter(Boolean).join(" · "))),
          make("i", { class: "state " + (example.outcomes[0] || ""), "aria-hidden": "true" }),
        );
      }),
    );
    const current = $("list").querySelector("[aria-current]");
    if (current) {
      const box = $("list").getBoundingClientRect();
      const at = current.getBoundingClientRect();
      $("list").scrollTop += at.top - box.top - box.height / 3;
      $("list").scrollLeft += at.left - box.left - box.width / 3;
    }
  }

  function choose(id) {
    set({ id });
    $("detail").scrollTop = 0;
  }

  function render() {
    shown = all.filter((example) => matches(example));
    if (!shown.some((example) => example.id === state.id)) {
      state.id = shown.length ? shown[0].id : "";
    }
    renderFilters();
    renderList();
    const at = shown.findIndex((example) => example.id === state.id);
    $("count").textContent = shown.length
      ? `${at + 1} of ${shown.length} examples`
      : `0 of ${all.length} examples`;
    if (at < 0) {
      $("detail").replaceChildren(
        make("p", { class: "note" }, "No example has all of these. Widen a filter."));
      return;
    }
    renderDetail(shown[at], at);
  }

  // A picture with boxes on top; show(groups) draws groups of boxes.
  function picture(example) {
    const overlay = shape("svg", {
      viewBox: "0 0 999 999", preserveAspectRatio: "none", class: "overlay",
      "aria-hidden": "true",
    });
    const image = make("img", { src: example.image, alt: "The picture that is asked about" });
    image.addEventListener("load", () => {
      image.classList.toggle("pixelated", image.naturalWidth < 200);
    });
    const caption = make("figcaption", { class: "note" });
    const node = make("figure", {}, make("div", { class: "canvas" }, image, overlay), caption);
    function show(groups, text) {
      overlay.replaceChildren();
      const drawn = new Map();  // A box named again is drawn around the first.
      groups.forEach((boxes, group) => {
        for (const [y1, x1, y2, x2] of boxes) {
          const key = [y1, x1, y2, x2].join(" ");
          const pad = 12 * (drawn.get(key) || 0);
          drawn.set(key, (drawn.get(key) || 0) + 1);
          overlay.append(shape("rect", {
            x: x1 - pad, y: y1 - pad,
            width: Math.max(0, x2 - x1) + 2 * pad, height: Math.max(0, y2 - y1) + 2 * pad,
            class: "box b" + (group % 4),
          }));
        }
      });
      caption.textContent = text;
    }
    return { node, show };
  }

  const hasBoxes = (groups) => groups.some((group) => group.boxes.length);

  function rationaleView(groups) {
    return make("ol", { class: "groups" },
      ...groups.map((group, i) => make("li", {},
        group.boxes.length ? make("i", { class: "key b" + (i % 4), "aria-hidden": "true" }) : null,
        make("code", {}, group.text))));
  }

  function mark(isRight) {
    return make("span", { class: "badge " + (isRight ? "good" : "bad") },
      isRight ? "right" : "wrong");
  }

  function studentsView(example, canvas) {
    if (!example.students.length) return null;
    return make("section", {},
      make("h3", {}, "Students"),
      make("div", { class: "cards" },
        ...example.students.map((student) => make("div", { class: "card" },
          make("h4", {}, ARMS[student.arm] || student.arm),
          make("p", {}, make("span", { class: "note" }, "Direct "),
            make("b", {}, student.direct || "(nothing)"), " ", mark(student.is_right)),
          student.rationale.length
            ? make("div", {},
                make("p", {}, make("span", { class: "note" }, "Rationale, then answer "),
                  student.rationale_is_right === null ? null : mark(student.rationale_is_right)),
                rationaleView(student.rationale),
                hasBoxes(student.rationale)
                  ? make("button", {
                      type: "button", class: "link",
                      on: { click: () => canvas.show(
                        student.rationale.map((g) => g.boxes), "Boxes that this student names") },
                    }, "Show its boxes")
                  : null)
            : null))));
  }

  function decisionBadge(program) {
    const tone = program.decision === "kept" ? "good"
      : program.decision === "right" ? "fine" : program.decision ? "bad" : "";
    return make("span", { class: "badge " + tone },
      DECISIONS[program.decision] || program.decision.replaceAll("_", " ") || "not judged");
  }

  function programsView(example, canvas) {
    if (!example.programs.length) return null;
    const tabs = make("div", { class: "tabs", role: "tablist", "aria-label": "Programs" });
    const panel = make("div", { role: "tabpanel", id: "program", tabindex: "0" });
    function open(index) {
      [...tabs.children].forEach((tab, i) => {
        tab.setAttribute("aria-selected", i === index ? "true" : "false");
        tab.tabIndex = i === index ? 0 : -1;
      });
      panel.setAttribute("aria-label", `Program ${index + 1}`);
      panel.replaceChildren(programView(example.programs[index], canvas));
    }
    example.programs.forEach((program, index) => {
      tabs.append(make("button", {
        type: "button", role: "tab", "aria-controls": "program",
        on: {
          click: () => open(index),
          keydown: (event) => {
            const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
            if (!step) return;
            event.preventDefault();
            event.stopPropagation();
            const count = example.programs.length;
            open((index + step + count) % count);
            tabs.children[(index + step + count) % count].focus();
          },
        },
      }, make("b", {}, String(index + 1)), " ", decisionBadge(program)));
    });
    open(Math.max(0, example.kept === null ? 0 : example.kept));
    return make("section", {}, make("h3", {}, "Programs"), tabs, panel);
  }

  function programView(program, canvas) {
    const outcome = program.status === undefined ? "not run yet"
      : program.status === "ok" ? `answered ${program.answer}`
      : `${program.status}: ${program.error.replaceAll("_", " ")}`;
    const steps = (program.steps || []).map((step) => make("li", {},
      make("button", {
        type: "button", class: "step",
        on: { click: () => canvas.show([step.boxes], step.text) },
      },
        make("small", {}, step.line ? `line ${step.line}` : ""),
        make("code", {}, step.text))));
    const more = (program.num_steps || 0) - steps.length;
    return make("div", {},
      make("pre", { tabindex: "0" }, make("code", {}, program.text)),
      make("p", {}, make("span", { class: "note" }, "Outcome "), make("b", {}, outcome)),
      program.message ? make("p", { class: "message" }, program.message) : null,
      steps.length ? make("h4", {}, "Trace") : null,
      make("ol", { class: "steps" }, ...steps),
      more > 0 ? make("p", { class: "note" }, `and ${more} more steps`) : null);
  }

  function renderDetail(example, at) {
    const canvas = picture(example);
    const move = (step, text) => make("button", {
      type: "button", class: "link", disabled: !shown[at + step],
      on: { click: () => choose(shown[at + step].id) },
    }, text);
    const showRationale = () => canvas.show(
      example.rationale.map((g) => g.boxes),
      hasBoxes(example.rationale) ? "Boxes of the rationale" : "");
    $("detail").replaceChildren(
      make("div", { class: "detail-head" },
        make("p", { class: "eyebrow" },
          [example.data, example.split, example.family, example.id].filter(Boolean).join(" · ")),
        make("p", { class: "moves" }, move(-1, "← Previous"), move(1, "Next →"))),
      make("h2", {}, example.question),
      make("div", { class: "split" },
        canvas.node,
        make("div", {},
          make("p", {}, make("span", { class: "note" }, "Label "),
            make("b", {}, example.answers.join(", ") || "none")),
          example.choices.length
            ? make("p", {}, make("span", { class: "note" }, "Choices "),
                example.choices.join(", "))
            : null,
          make("p", { class: "badges" },
            ...example.outcomes.map((o) => make("span", { class: "badge " + o }, OUTCOMES[o] || o))),
          make("h3", {}, "Rationale"),
          example.rationale.length
            ? make("div", {}, rationaleView(example.rationale),
                hasBoxes(example.rationale)
                  ? make("button", { type: "button", class: "link", on: { click: showRationale } },
                      "Show its boxes")
                  : null)
            : make("p", {}, "None", make("span", { class: "note" },
                example.reason ? `: ${example.reason.replaceAll("_", " ")}` : "")),
          example.reference
            ? make("details", {}, make("summary", {}, "True rationale (for scoring only)"),
                make("p", {}, make("code", {}, example.reference)))
            : null)),
      studentsView(example, canvas) || "",
      programsView(example, canvas) || "");
    showRationale();
  }

  for (const name of FILTERS) {
    $(name).addEventListener("change", (event) => set({ [name]: event.target.value }));
  }
  $("words").addEventListener("input", (event) => set({ words: event.target.value }));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { readHash(); render(); });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, pre, [role=tab]") || event.altKey ||
        event.ctrlKey || event.metaKey) return;
    const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1 }[event.key];
    const inList = event.target.closest("#list");
    if (!step || (event.key.startsWith("Arrow") && !inList)) return;
    const at = shown.findIndex((example) => example.id === state.id) + step;
    if (!shown[at]) return;
    event.preventDefault();
    choose(shown[at].id);
    if (inList) $("list").children[at].focus();
  });

  readHash();
  render();
})();
