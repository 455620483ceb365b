"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const colours = new Map(data.colours.map((one) => [one.name, one]));
  const rocks = new Set(data.rocks);
  const first = data.checkpoints[0];
  const WHOLE = new Set(["student_rank", "teacher_rank", "student_top_id", "teacher_top_id"]);

  // --- Values -----------------------------------------------------------------------------------

  const decoded = new Map();
  function stored(rollout, checkpoint, name) {
    const key = `${rollout.row}|${checkpoint}|${name}`;
    if (!decoded.has(key)) {
      const raw = atob(rollout.columns[checkpoint][name]);
      const bytes = Uint8Array.from(raw, (letter) => letter.charCodeAt(0));
      const Kind = WHOLE.has(name) ? Int32Array : Float32Array;
      decoded.set(key, new Kind(bytes.buffer));
    }
    return decoded.get(key);
  }

  function values(rollout, checkpoint, name) {
    const minus = (a, b) => a.map((value, i) => value - b[i]);
    if (name === "advantage") {
      return minus(stored(rollout, checkpoint, "teacher_logp"), stored(rollout, checkpoint, "student_logp"));
    }
    if (name === "gain") {
      return minus(stored(rollout, first, "reverse_kl"), stored(rollout, checkpoint, "reverse_kl"));
    }
    return stored(rollout, checkpoint, name);
  }

  const number = (value) =>
    value === undefined || Number.isNaN(value) ? "n/a" : String(Number(value.toPrecision(3)));
  const word = (id) => (id < 0 ? "n/a" : (data.vocab[id] || [`#${id}`])[0]);
  const visible = (text) => (text === "" ? "(no text)" : text.replace(/\n/g, "⏎").replace(/\t/g, "⇥"));

  // --- Drawing ----------------------------------------------------------------------------------

  function element(kind, className, text) {
    const made = document.createElement(kind);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function colour(value, scale) {
    if (Number.isNaN(value) || !(scale > 0)) return "";
    const share = Math.min(Math.abs(value) / scale, 1);
    return `rgba(var(${value < 0 ? "--low" : "--high"}), ${(0.75 * share).toFixed(3)})`;
  }

  function tokenSpan(rollout, place) {
    const id = rollout.ids[place];
    const [text, special] = data.vocab[id] || [`#${id}`, 0];
    const span = element("span", "t", text === "" ? "·" : text);
    if (special) span.classList.add("special");
    if (!rollout.in_loss[place]) span.classList.add("outside");
    if (place > 0 && rollout.segment[place] !== rollout.segment[place - 1]) span.classList.add("segment");
    if (rocks.has(id)) span.classList.add("rock");
    span.dataset.place = place;
    span.tabIndex = place === 0 ? 0 : -1;
    return span;
  }

  function draw(rollout) {
    const box = element("article", "rollout");
    const facts = [rollout.rollout_id, rollout.reasons.join(", ")];
    if (rollout.correct !== null) facts.push(rollout.correct ? "correct" : "wrong");
    if (rollout.policy !== null) facts.push(rollout.policy);
    if (rollout.step !== null) facts.push(`step ${rollout.step}`);
    facts.push(`${rollout.tokens} tokens`);
    if (rollout.ids.length < rollout.tokens) facts.push(`the first ${rollout.ids.length} shown`);
    box.append(element("h3", "", facts.join(" · ")));
    const folded = element("details");
    folded.append(element("summary", "", "Prompt"));
    const cut = rollout.prompt_cut ? `\n… ${rollout.prompt_cut} more characters` : "";
    folded.append(element("div", "prompt", rollout.prompt + cut));
    box.append(folded);
    const response = element("div", "response");
    response.dir = "auto";
    const chosen = new Set(rollout.marks.selected || []);
    const spans = rollout.ids.map((_, place) => {
      const span = tokenSpan(rollout, place);
      if (chosen.has(place)) span.classList.add("selected");
      return span;
    });
    response.append(...spans);
    box.append(response);
    const chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    chart.setAttribute("class", "chart");
    chart.setAttribute("preserveAspectRatio", "none");
    box.append(chart);
    const drawn = { rollout, box, response, chart, spans };
    listen(drawn);
    paint(drawn);
    return drawn;
  }

  function paint(drawn) {
    const { rollout, spans, chart } = drawn;
    const name = byId("column").value;
    const checkpoint = byId("checkpoint").value;
    const column = values(rollout, checkpoint, name);
    const scale = data.scales[checkpoint][name];
    const released = rollout.marks.release[checkpoint];
    const [from, to] = rollout.marks.stretch[checkpoint] || [Infinity, -Infinity];
    spans.forEach((span, place) => {
      span.style.backgroundColor = colour(column[place], scale);
      span.classList.toggle("released", place === released);
      span.classList.toggle("stretch", place >= from && place < to);
    });
    const known = Array.from(column).filter((value) => !Number.isNaN(value));
    const top = known.reduce((most, value) => Math.max(most, value), 0);
    const bottom = known.reduce((least, value) => Math.min(least, value), 0);
    const height = top - bottom || 1;
    chart.setAttribute("viewBox", `0 0 ${Math.max(column.length, 1)} 100`);
    chart.setAttribute("aria-label", `${colours.get(name).label} along the rollout`);
    chart.setAttribute("role", "img");
    chart.replaceChildren();
    const line = document.createElementNS(chart.namespaceURI, "polyline");
    const points = [];
    column.forEach((value, place) => {
      if (!Number.isNaN(value)) points.push(`${place + 0.5},${(97 - (94 * (value - bottom)) / height).toFixed(2)}`);
    });
    line.setAttribute("points", points.join(" "));
    const here = document.createElementNS(chart.namespaceURI, "line");
    here.setAttribute("class", "here");
    here.setAttribute("y1", 0);
    here.setAttribute("y2", 100);
    here.setAttribute("visibility", "hidden");
    chart.append(line, here);
    drawn.here = here;
  }

  function tell(drawn, place) {
    const { rollout } = drawn;
    const checkpoint = byId("checkpoint").value;
    const name = byId("column").value;
    const of = (column) => values(rollout, checkpoint, column)[place];
    const id = rollout.ids[place];
    const card = byId("card");
    card.replaceChildren();
    const fact = (label, value, key) => {
      const part = element("span", "", `${label} `);
      const text = element("b", "", value);
      if (key) text.dataset.fact = key;
      part.append(text);
      card.append(part);
    };
    fact("token", `${visible(word(id))}  #${id}`, "token");
    fact("position", String(place), "position");
    fact(colours.get(name).label, `${number(of(name))} ${colours.get(name).unit}`, name);
    const others = [
      ["KL(student ‖ teacher)", "reverse_kl"], ["KL(teacher ‖ student)", "forward_kl"],
      [`margin, K = ${data.margin_k}`, "margin"], ["log-prob student", "student_logp"],
      ["teacher", "teacher_logp"], ["rank student", "student_rank"], ["teacher", "teacher_rank"],
    ];
    for (const [label, key] of others.filter((other) => other[1] !== name)) {
      const value = of(key);
      fact(label, WHOLE.has(key) ? (value < 0 ? "n/a" : String(value)) : number(value), key);
    }
    fact("best of student", visible(word(of("student_top_id"))), "student_top_id");
    fact("of teacher", visible(word(of("teacher_top_id"))), "teacher_top_id");
    drawn.here.setAttribute("x1", place + 0.5);
    drawn.here.setAttribute("x2", place + 0.5);
    drawn.here.setAttribute("visibility", "visible");
  }

  function listen(drawn) {
    const { response, chart, spans } = drawn;
    const placeOf = (target) => (target.dataset && target.dataset.place ? Number(target.dataset.place) : null);
    const over = (event) => {
      const place = placeOf(event.target);
      if (place !== null) tell(drawn, place);
    };
    response.addEventListener("mouseover", over);
    response.addEventListener("focusin", over);
    response.addEventListener("keydown", (event) => {
      const place = placeOf(event.target);
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (place === null || step === undefined) return;
      event.preventDefault();
      const next = Math.min(Math.max(place + step, 0), spans.length - 1);
      event.target.tabIndex = -1;
      spans[next].tabIndex = 0;
      spans[next].focus();
    });
    chart.addEventListener("mousemove", (event) => {
      const box = chart.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      const place = Math.min(Math.max(Math.floor(share * spans.length), 0), spans.length - 1);
      tell(drawn, place);
      response.scrollTop = spans[place].offsetTop - response.clientHeight / 2;
    });
  }

  // --- What is shown ----------------------------------------------------------------------------

  let shown = [];
  const mean = (rollout) => {
    const column = Array.from(values(rollout, byId("checkpoint").value, "reverse_kl"));
    const known = column.filter((value) => !Number.isNaN(value));
    return known.reduce((sum, value) => sum + value, 0) / Math.max(known.length, 1);
  };
  const orders = {
    chosen: () => 0,
    kl: (a, b) => mean(b) - mean(a),
    length: (a, b) => b.tokens - a.tokens,
    wrong: (a, b) => Number(a.correct ?? 2) - Number(b.correct ?? 2),
  };

  function listRollouts() {
    const select = byId("rollout");
    const chosen = select.value;
    const ordered = data.rollouts.slice().sort(orders[byId("sort").value]);
    select.replaceChildren(
      ...ordered.map((one) => new Option(`${one.rollout_id} · ${one.reasons.join(", ")}`, one.row)),
    );
    if (chosen) select.value = chosen;
  }

  function show() {
    const chosen = data.rollouts.find((one) => String(one.row) === byId("rollout").value);
    if (!chosen) return;
    const beside = byId("beside").checked;
    const wanted = beside ? data.rollouts.filter((one) => one.prompt_id === chosen.prompt_id) : [chosen];
    const view = byId("view");
    view.classList.toggle("beside", beside && wanted.length > 1);
    shown = wanted.map(draw);
    view.replaceChildren(...shown.map((drawn) => drawn.box));
    overlays();
    search();
  }

  function overlays() {
    for (const box of document.querySelectorAll("input[id^=show-]")) {
      byId("view").classList.toggle(box.id, box.checked);
    }
  }

  function repaint() {
    const scale = data.scales[byId("checkpoint").value][byId("column").value];
    const one = colours.get(byId("column").value);
    const legend = byId("legend");
    const steps = one.signed ? [-1, -0.5, 0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
    legend.replaceChildren(
      ...steps.map((share) => {
        const part = element("span", "", `${number(share * scale)} ${one.unit}`);
        part.style.backgroundColor = colour(share * scale, scale);
        return part;
      }),
    );
    shown.forEach(paint);
  }

  function search() {
    const wanted = byId("search").value;
    let count = 0;
    for (const { spans } of shown) {
      spans.forEach((span) => span.classList.remove("found"));
      if (!wanted) continue;
      const starts = [];
      let text = "";
      for (const span of spans) {
        starts.push(text.length);
        text += span.textContent.toLowerCase();
      }
      const needle = wanted.toLowerCase();
      for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) {
        count += 1;
        spans.forEach((span, place) => {
          const end = place + 1 < starts.length ? starts[place + 1] : text.length;
          if (starts[place] < at + needle.length && end > at) span.classList.add("found");
        });
      }
    }
    byId("matches").textContent = wanted ? `${count} ${count === 1 ? "match" : "matches"}` : "";
    const hit = document.querySelector("#view .found");
    if (hit) hit.parentElement.scrollTop = hit.offsetTop - 60;
  }

  byId("column").replaceChildren(
    ...data.colours
      .filter((one) => one.name !== "gain" || data.checkpoints.length > 1)
      .map((one) => new Option(one.label, one.name)),
  );
  byId("checkpoint").replaceChildren(...data.checkpoints.map((name) => new Option(name, name)));
  listRollouts();
  show();
  repaint();
  byId("column").addEventListener("change", repaint);
  byId("checkpoint").addEventListener("change", repaint);
  byId("rollout").addEventListener("change", show);
  byId("beside").addEventListener("change", show);
  byId("sort").addEventListener("change", listRollouts);
  byId("search").addEventListener("input", search);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const box of document.querySelectorAll("input[id^=show-]")) box.addEventListener("change", overlays);
})();
