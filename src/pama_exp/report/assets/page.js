"use strict";
// The page: one section at a time, filters over solvers, objectives and seeds, and what is drawn from the embedded data.

const DATA = JSON.parse(document.getElementById("data").textContent);
const state = { section: 0, hidden: { families: new Set(), objectives: new Set(), seeds: new Set() }, pair: 0, zoom: true, bands: null, prompt: 0, seed: null };
const FAINT = 40; // so many single runs are drawn behind their mean; more would hide it
const NAMED = 9; // so many lines are named at their end; more would not fit
const section = () => DATA.sections[state.section];
const color = (family) => `var(--c${section().families.indexOf(family) % 8})`;
const mark = (family) => section().families.indexOf(family);
const waiting = []; // charts are drawn once the page around them stands, since they take its width
const isShown = (kind, value) => !state.hidden[kind].has(value);
const runs = () => section().runs.map((run, index) => ({ ...run, index })).filter((run) => isShown("families", run.family) && isShown("seeds", run.seed));
const objectives = () => section().objectives.filter((name) => isShown("objectives", name));
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const percent = (value) => (100 * value).toFixed(1) + " %";

function swatch(family) {
  const svg = node("svg", { class: "mark", viewBox: "-8 -8 16 16", "aria-hidden": true });
  shape(svg, 0, 0, mark(family), color(family), 5.5, false);
  return svg;
}

function groups() {
  const found = new Map();
  for (const run of runs()) found.set(run.group, [...(found.get(run.group) || []), run]);
  return [...found].map(([label, members]) => ({ label, members, family: members[0].family }));
}

/* A finished run is at its test rewards; another at its newest evaluation, drawn hollow. */
function place_of(run) {
  const s = section();
  if (run.after) return { point: run.after[s.kind], hollow: false };
  const newest = s.objectives.map((name) => (run.series[`eval/${s.kind}/${name}/mean`] || []).filter((v) => v !== null).at(-1));
  return newest.every((v) => v !== undefined) ? { point: newest, hollow: true } : null;
}

function describe(run) {
  return [run.name, `${run.group}, seed ${run.seed}` + (run.status === "complete" ? "" : ` · ${run.status} at step ${run.step}`)];
}

function card(title, sub, spec, parent, ...controls) {
  const holder = element("div");
  parent.append(element("section", { className: "card" }, element("div", { className: "top" }, element("div", {}, element("h3", { textContent: title }), sub ? element("p", { className: "sub", textContent: sub }) : null), ...controls), holder));
  waiting.push([holder, { label: title, ...spec }]);
}

function part(id, title, why) {
  const main = document.getElementById("main"), body = element("div", { className: "grid" });
  main.append(element("h2", { id, textContent: title }), element("p", { className: "why", textContent: why }), body);
  return body;
}

// ---- operating points ---------------------------------------------------------------------------------------------

function stairs(points, x0, y0) {
  const sorted = [...points].sort((a, b) => a[0] - b[0]), path = [[x0, sorted[0][1]]];
  sorted.forEach((p, i) => path.push(p, [p[0], i + 1 < sorted.length ? sorted[i + 1][1] : y0]));
  return [[x0, y0], ...path];
}

function scatter(body) {
  const s = section(), n = s.objectives.length, pairs = [];
  for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) pairs.push([i, j]);
  const [i, j] = pairs[state.pair % pairs.length], names = [s.objectives[i], s.objectives[j]];
  const front = (s.fronts.find((f) => f.pair[0] === names[0] && f.pair[1] === names[1]) || { points: [] }).points;
  const dots = [], labels = [], starts = [];
  for (const group of groups()) {
    const at = group.members.map((run) => ({ run, place: place_of(run) })).filter((e) => e.place);
    for (const { run, place } of at) dots.push({ run: run.index, x: place.point[i], y: place.point[j], color: color(run.family), shape: mark(run.family), hollow: place.hollow, r: 4 });
    const done = at.filter((e) => !e.place.hollow);
    if (!done.length) continue;
    const centre = [i, j].map((k) => mean(done.map((e) => e.place.point[k])));
    if (done.length > 1) dots.push({ x: centre[0], y: centre[1], color: color(group.family), shape: mark(group.family), r: 7.5 });
    labels.push({ x: centre[0], y: centre[1], text: group.label, color: color(group.family) });
    starts.push(...done.filter((e) => e.run.before).map((e) => [e.run.before[s.kind][i], e.run.before[s.kind][j]]));
  }
  const lines = [], areas = [];
  const start = starts.length ? [mean(starts.map((p) => p[0])), mean(starts.map((p) => p[1]))] : null;
  if (start) { dots.push({ x: start[0], y: start[1], color: "var(--soft)", shape: 0, r: 6, hollow: true }); labels.push({ x: start[0], y: start[1], text: "SFT policy", color: "var(--soft)" }); }
  const spots = dots.map((d) => [d.x, d.y]);
  const gap = (p) => Math.min(...spots.map((q) => Math.hypot(p[0] - q[0], p[1] - q[1])));
  const nearest = front.length && spots.length ? [front.reduce((a, b) => (gap(b) < gap(a) ? b : a))] : [];
  const wide = [...spots, ...(state.zoom ? nearest : [...front, [0, 0]])]; // in every view some of the front
  const x = extent(wide.map((p) => p[0]), 0.14), y = extent(wide.map((p) => p[1]), 0.14);
  if (front.length) {
    const low = [Math.min(0, x[0]), Math.min(0, y[0])];
    areas.push({ points: [[low, [low[0], front[0][1]], ...front, [front.at(-1)[0], low[1]]]], color: "var(--area)" });
    lines.push({ points: front, color: "var(--ink)", width: 1.8 });
    const inside = front.filter((p) => p[0] > x[0] && p[0] < x[1] && p[1] > y[0] && p[1] < y[1]);
    if (inside.length) { const p = inside[Math.floor(inside.length * 0.5)]; labels.unshift({ x: p[0], y: p[1], text: "true front", color: "var(--ink)" }); }
  }
  const banded = state.bands === null ? s.attainment.some((a) => a.points > 1) : state.bands;
  for (const band of s.attainment.filter((a) => banded && isShown("families", a.family))) {
    const rings = ["25", "75"].map((level) => stairs(band.levels[level], x[0] - 1, y[0] - 1));
    areas.push({ points: rings, color: color(band.family), opacity: 0.16 });
    lines.push({ points: stairs(band.levels["50"], x[0] - 1, y[0] - 1).slice(1), color: color(band.family), width: 1.1, opacity: 0.75, dash: "4 3" });
  }
  const zoom = element("label", {}, element("input", { type: "checkbox", checked: state.zoom, onchange: (e) => { state.zoom = e.target.checked; draw(); } }), " zoom to the runs");
  const bands = s.attainment.length ? element("label", {}, element("input", { type: "checkbox", id: "bands", checked: banded, onchange: (e) => { state.bands = e.target.checked; draw(); } }), " attainment over seeds") : null;
  const choose = pairs.length > 1 ? element("select", { onchange: (e) => { state.pair = +e.target.value; draw(); }, aria: { label: "Pair of objectives" } }, ...pairs.map((pair, k) => element("option", { value: k, textContent: pair.map((p) => s.objectives[p]).join(" × "), selected: k === state.pair }))) : null;
  card(names.join(" against "), front.length ? "Shaded: what the true front dominates" : "The true front is not known here",
    { x, y, areas, lines, dots, avoid: front, names: labels.length <= 14 ? labels : labels.filter((l) => ["true front", "SFT policy"].includes(l.text)), xlabel: names[0], ylabel: names[1], height: Math.min(520, Math.max(320, innerWidth * 0.42)),
      tip: (t) => [...describe(s.runs[t.run]), `${names[0]} ${number(t.x)}, ${names[1]} ${number(t.y)}`, ...(s.runs[t.run].share === null ? [] : [`${percent(s.runs[t.run].share)} of the true hypervolume`])] }, body, element("div", {}, choose, " ", bands, " ", zoom));
}

function parallel(body) {
  const s = section(), shown = s.objectives.map((name, k) => [name, k]).filter(([name]) => isShown("objectives", name));
  const tracks = [], lines = [];
  const all = runs().map((run) => ({ run, place: place_of(run) })).filter((e) => e.place);
  for (const { run, place } of all) tracks.push({ run: run.index, color: color(run.family), faint: all.length <= 4 * FAINT, points: shown.map(([, k], at) => [at, place.point[k]]) });
  const many = groups();
  for (const group of many) {
    const done = group.members.map(place_of).filter((p) => p && !p.hollow);
    if (done.length) lines.push({ color: color(group.family), name: many.length <= NAMED ? group.label : "", points: shown.map(([, k], at) => [at, mean(done.map((p) => p.point[k]))]) });
  }
  card("All objectives", "A line is a group's mean; faint lines are single runs", { tracks, lines, x: [-0.1, shown.length - 0.9], xticks: shown.map(([name], at) => [at, name]), ylabel: `${s.kind} reward`, height: 380,
    tip: (t) => [...describe(s.runs[t.run]), `${shown[Math.round(t.x)][0]} ${number(t.y)}`] }, body);
}

function shares(body) {
  const s = section(), dots = [], rows = groups().filter((g) => g.members.some((run) => run.share !== null));
  rows.sort((a, b) => mean(b.members.filter((r) => r.share !== null).map((r) => r.share)) - mean(a.members.filter((r) => r.share !== null).map((r) => r.share)));
  const best = rows.slice(0, 24);
  best.forEach((group, at) => {
    const done = group.members.filter((run) => run.share !== null);
    if (done.length > 1) dots.push({ x: mean(done.map((r) => r.share)), y: -at, color: color(group.family), shape: mark(group.family), r: 7 });
    for (const run of done) dots.push({ run: run.index, x: run.share, y: -at, color: color(run.family), shape: mark(run.family), r: 3.5 });
  });
  if (!best.length) return;
  card("Share of the true hypervolume", "Large: a group's mean. Small: its runs" + (rows.length > best.length ? `. The best ${best.length} of ${rows.length} groups` : ""), { dots, y: [-best.length + 0.4, 0.6], yticks: best.map((g, at) => [-at, g.label]), height: Math.max(200, 60 + 32 * best.length),
    x: extent(dots.map((d) => d.x), 0.1), tip: (t) => [...describe(s.runs[t.run]), `${percent(t.x)} of the true hypervolume`] }, body);
}

// ---- curves -------------------------------------------------------------------------------------------------------

function curve(key, steps) {
  const s = section(), visible = runs().filter((run) => run.series[key]), all = groups();
  const tracks = visible.map((run) => ({ run: run.index, color: color(run.family), faint: visible.length <= FAINT, points: steps.map((step, k) => [step, run.series[key][k]]).filter((p) => p[1] !== null) }));
  const lines = [], bands = [];
  for (const group of all) {
    const own = group.members.map((run) => run.series[key]).filter(Boolean), points = [], band = [];
    steps.forEach((step, k) => {
      const values = own.map((v) => v[k]).filter((v) => v !== null);
      if (!values.length) return;
      points.push([step, mean(values)]);
      band.push([step, Math.min(...values), Math.max(...values)]);
    });
    if (points.length) lines.push({ points, color: color(group.family), name: all.length <= NAMED ? group.label : "", dash: group.members.every((run) => run.status !== "complete") ? "5 4" : undefined });
    if (own.length > 1) bands.push({ points: band, color: color(group.family) });
  }
  return { tracks, lines, bands, xlabel: "step", tip: (t) => [...describe(s.runs[t.run]), `step ${t.x}: ${number(t.y)}`] };
}

function path_of(xs, ys, xlabel, ylabel) {
  const s = section(), all = groups(), tracks = [], lines = [], dots = [];
  for (const group of all) {
    const own = group.members.filter((run) => run.series[xs] && run.series[ys]);
    for (const run of own) tracks.push({ run: run.index, color: color(run.family), faint: own.length * all.length <= FAINT, points: run.series[xs].map((x, k) => [x, run.series[ys][k]]).filter((p) => p[0] !== null && p[1] !== null) });
    const points = [];
    for (let k = 0; k < s.eval_steps.length; k++) {
      const both = own.map((run) => [run.series[xs][k], run.series[ys][k]]).filter((p) => p[0] !== null && p[1] !== null);
      if (both.length) points.push([mean(both.map((p) => p[0])), mean(both.map((p) => p[1]))]);
    }
    if (!points.length) continue;
    lines.push({ points, color: color(group.family), name: all.length <= NAMED ? group.label : "" });
    dots.push({ x: points.at(-1)[0], y: points.at(-1)[1], color: color(group.family), shape: mark(group.family), r: 5 });
  }
  return { tracks, lines, dots, xlabel, ylabel, tip: (t) => [...describe(s.runs[t.run]), `${xlabel} ${number(t.x)}, ${ylabel} ${number(t.y)}`] };
}

function has(key) { return section().runs.some((run) => run.series[key]); }

function draw_curves() {
  const s = section(), shown = objectives();
  let body = part("training", "Training", "Lines are means over seeds, bands reach from the least to the greatest seed, faint lines are single runs.");
  for (const name of shown) if (has(`reward/${name}/mean`)) card(`${name}: reward in training`, "as the solver is given it", curve(`reward/${name}/mean`, s.steps), body);
  for (const name of shown) if (has(`eval/gold/${name}/mean`)) card(`${name}: gold reward`, "on held-out prompts", curve(`eval/gold/${name}/mean`, s.eval_steps), body);
  for (const name of shown) if (!has(`eval/gold/${name}/mean`) && has(`eval/proxy/${name}/mean`)) card(`${name}: reward`, "on held-out prompts", curve(`eval/proxy/${name}/mean`, s.eval_steps), body);
  for (const [key, title] of [["kl/response", "KL to the reference, nats per response"], ["response/length", "Response length, tokens"]]) if (has(key)) card(title, null, curve(key, s.steps), body);
  const kind = s.kind;
  if (shown.some((name) => has(`eval/${kind}/${name}/mean`)) && has("kl/eval")) {
    body = part("kl", "What the reward cost in KL", "Higher and further to the left is better; a path runs from the SFT policy at 0 to the mark at its end.");
    for (const name of shown) card(name, null, path_of("kl/eval", `eval/${kind}/${name}/mean`, "KL, nats per response", kind === "gold" ? "gold reward" : "reward"), body);
  }
  if (shown.some((name) => has(`eval/gold/${name}/mean`) && has(`eval/proxy/${name}/mean`))) {
    body = part("proxy", "Proxy against gold", "A path that goes right and down is over-optimised: the reward model rises while what it stands for falls. Where runs are scored by the gold programs, the two are the same.");
    for (const name of shown) card(name, null, path_of(`eval/proxy/${name}/mean`, `eval/gold/${name}/mean`, "proxy", "gold"), body);
  }
  if (shown.some((name) => has(`solver/weight/${name}`))) {
    body = part("weights", "What the solver did", "Weights are those applied, averaged over tokens; an objective binds at a token where its advantage, clipped at 0, is the least.");
    for (const name of shown) card(`${name}: weight`, null, { ...curve(`solver/weight/${name}`, s.steps), y: [-0.03, 1.03] }, body);
    for (const name of shown) if (has(`solver/binding_share/${name}`)) card(`${name}: binding share`, null, { ...curve(`solver/binding_share/${name}`, s.steps), y: [-0.03, 1.03] }, body);
  }
}

// ---- tables, texts, runs -------------------------------------------------------------------------------------------

function table(content, families) {
  const head = element("tr", {}, ...content.header.map((text) => element("th", { scope: "col", textContent: text })));
  const rows = content.rows.filter((row) => !families[row[0]] || isShown("families", families[row[0]])).map((row) => element("tr", {}, ...row.map((text, k) =>
    k === 0 && families[text] ? element("td", {}, element("span", { className: "swatch" }, swatch(families[text]), text)) : element("td", { textContent: text }))));
  const scroll = element("div", { className: "scroll", tabIndex: 0, aria: { label: content.title } }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  return element("section", { className: "card" }, element("h3", { textContent: content.title }), scroll);
}

function draw_tables() {
  const s = section(), families = Object.fromEntries(s.runs.flatMap((run) => [[run.group, run.family], [run.family, run.family]]));
  const body = part("table", "The comparison", "Means over seeds, from three seeds on with 95 % intervals (Student's t); tests are paired over the seeds that two groups share.");
  body.className = "stack";
  if (s.warnings.length) body.append(element("ul", { className: "notes" }, ...s.warnings.map((text) => element("li", { textContent: text }))));
  for (const content of s.tables) body.append(table(content, families));
  if (s.differences.header.length > 1) body.append(table(s.differences, families));
}

function draw_generations() {
  const s = section();
  if (!s.prompts.length) return;
  const body = part("generations", "The same prompt, answered by each", "One sampled response each; bars are the scores of this response.");
  body.className = "";
  const seeds = [...new Set(runs().map((run) => run.seed))].sort((a, b) => a - b);
  if (!seeds.includes(state.seed)) state.seed = seeds[0];
  const step = (by) => () => { state.prompt = (state.prompt + by + s.prompts.length) % s.prompts.length; answers(); };
  const choose = element("select", { aria: { label: "Prompt" }, onchange: (e) => { state.prompt = +e.target.value; answers(); } }, ...s.prompts.map((text, k) => element("option", { value: k, textContent: text })));
  const seed = element("select", { className: "seed", aria: { label: "Seed" }, onchange: (e) => { state.seed = +e.target.value; answers(); } }, ...seeds.map((value) => element("option", { value, textContent: `seed ${value}`, selected: value === state.seed })));
  const holder = element("div", { className: "answers" });
  body.append(element("div", { className: "prompt" }, element("button", { type: "button", textContent: "←", onclick: step(-1), aria: { label: "Previous prompt" } }), choose, element("button", { type: "button", textContent: "→", onclick: step(1), aria: { label: "Next prompt" } }), seed), holder);
  function answers() {
    choose.value = state.prompt;
    holder.replaceChildren(...runs().filter((run) => run.seed === state.seed && s.generations[run.index][state.prompt]).map((run) => {
      const [response, scores] = s.generations[run.index][state.prompt];
      const hasGold = Object.keys(scores).some((key) => key.startsWith("gold/"));
      const bars = Object.entries(scores).filter(([key]) => isShown("objectives", key.split("/")[1])).map(([key, value]) => {
        const isGold = key.startsWith("gold/"), bar = element("i");
        bar.style.cssText = `--v:${isGold ? Math.max(0, Math.min(1, value)) : 0};--bar:${color(run.family)}`;
        if (!isGold) bar.style.visibility = "hidden";
        return element("div", { className: "score" }, element("span", { textContent: hasGold ? key.replace("/", " ") : key.replace("proxy/", "") }), bar, element("span", { textContent: number(value) }));
      });
      const late = run.status === "complete" ? "" : ` · ${run.status}, step ${s.generation_steps[run.index]}`;
      return element("article", { className: "card" }, element("span", { className: "swatch" }, swatch(run.family), element("h3", { textContent: run.group + late })), element("blockquote", { textContent: response || "(nothing)" }), ...bars);
    }));
    if (!holder.children.length) holder.append(element("p", { className: "sub", textContent: "No run of this seed answered this prompt." }));
  }
  answers();
}

function draw_runs() {
  const s = section(), body = part("runs", "Every run, and how to make it again", "Finished or not. Open one for its command.");
  body.className = "card";
  body.append(...runs().map((run) => {
    const rewards = run.after ? s.objectives.map((name, k) => `${name} ${number(run.after[s.kind][k])}`).join(", ") : run.detail || "no result yet";
    const made = element("details", { className: "run" }, element("summary", {}, element("span", { className: "swatch" }, swatch(run.family), run.group), element("span", { className: "num", textContent: `seed ${run.seed}` }), element("span", {}, element("span", { className: "badge " + run.status, textContent: run.status })), element("span", { className: "num", textContent: `step ${run.step}${run.steps ? " of " + run.steps : ""}` }), element("span", { className: "num", textContent: rewards })));
    made.addEventListener("toggle", () => {
      if (!made.open || made.children.length > 1) return;
      const copy = element("button", { type: "button", textContent: "Copy", onclick: () => navigator.clipboard.writeText(run.command).then(() => { copy.textContent = "Copied"; }) });
      const facts = [["folder", run.folder], ["source", run.source], ["versions", run.versions || ""], ["seconds", number(run.seconds)], ["written", run.time ? new Date(run.time * 1000).toLocaleString() : "–"], ["detail", run.detail]].filter((fact) => fact[1]);
      made.append(element("pre", { textContent: run.command || "not recorded" }), run.command ? copy : "", element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })])));
    });
    return made;
  }));
}

// ---- frame ---------------------------------------------------------------------------------------------------------

function draw_head() {
  const s = section(), states = {};
  for (const run of s.runs) states[run.status] = (states[run.status] || 0) + 1;
  const seeds = new Set(s.runs.map((run) => run.seed)).size, n = s.families.length;
  const tabs = DATA.sections.length < 2 ? null : element("div", { className: "tabs", role: "tablist" }, ...DATA.sections.map((other, k) => element("button", { type: "button", role: "tab", textContent: `${other.objectives.join(" + ")} (${other.runs.length})`, aria: { selected: k === state.section }, onclick: () => { state.section = k; state.pair = state.prompt = 0; state.bands = null; for (const set of Object.values(state.hidden)) set.clear(); start(); } })));
  document.getElementById("head").replaceChildren(element("h1", { textContent: s.objectives.join(" + ") }),
    element("p", { className: "lead", textContent: `${s.runs.length} runs: ${n} ${n === 1 ? "solver" : "solvers"}, ${seeds} ${seeds === 1 ? "seed" : "seeds"}; ${Object.entries(states).map(([state, count]) => `${count} ${state}`).join(", ")}. Written ${new Date(DATA.written * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}.` }),
    tabs || "", DATA.notes.length ? element("ul", { className: "notes" }, ...DATA.notes.map((text) => element("li", { textContent: text }))) : "");
}

function draw_filters() {
  const s = section(), kinds = [["families", "Solver", s.families], ["objectives", "Objective", s.objectives], ["seeds", "Seed", [...new Set(s.runs.map((run) => run.seed))].sort((a, b) => a - b)]];
  const rows = element("div", { className: "rows" }, ...kinds.map(([kind, title, values]) => element("fieldset", {}, element("legend", { textContent: title }), ...values.map((value) => {
    const chip = element("button", { type: "button", className: "chip", aria: { pressed: true }, onclick: () => {
      const set = state.hidden[kind];
      set.has(value) ? set.delete(value) : set.add(value);
      chip.setAttribute("aria-pressed", !set.has(value));
      draw();
    } }, kind === "families" ? swatch(value) : null, String(value));
    chip.dataset.kind = kind;
    return chip;
  }))));
  const summary = element("summary");
  summary.append("Filter by solver, objective, seed");
  document.getElementById("filters").replaceChildren(element("details", { open: innerWidth > 760 && s.families.length <= 12 }, summary, rows));
}

function draw() {
  const top = scrollY, s = section();
  charts.length = 0;
  rest();
  document.getElementById("main").replaceChildren();
  if (s.objectives.length > 1) {
    const gold = s.kind === "gold" ? "Gold rewards" : "Rewards";
    const bands = s.attainment.length ? " Attainment: a band is reached by a quarter to three quarters of the seeds, its dashed line by half." : "";
    const body = part("points", "Where the policies end", `${gold} on unseen prompts. Small marks are runs, large ones means over seeds; hollow: not finished, at its newest evaluation.${bands}`);
    body.className = "grid wide";
    s.objectives.length > 3 ? parallel(body) : scatter(body);
    shares(body);
  } else {
    const body = part("points", "Where the policies end", "One objective: there is no front.");
    shares(body);
  }
  draw_tables();
  draw_curves();
  draw_generations();
  draw_runs();
  document.getElementById("main").append(element("footer", { textContent: "Every chart takes the pointer, a finger, or the arrow keys. The pictures and tables lie beside this file as PNG, SVG and CSV." }));
  for (const [holder, spec] of waiting.splice(0)) chart(holder, spec);
  scrollTo(0, top);
}

function start() { draw_head(); draw_filters(); draw(); }

function theme(name) { document.documentElement.dataset.theme = name; try { localStorage.setItem("pama-exp-theme", name); } catch { /* a page from file:// may have no storage */ } }
let kept = null;
try { kept = localStorage.getItem("pama-exp-theme"); } catch { /* likewise */ }
document.documentElement.dataset.theme = kept || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
document.getElementById("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
let wide = innerWidth, timer = 0;
addEventListener("resize", () => { clearTimeout(timer); if (innerWidth !== wide) timer = setTimeout(() => { wide = innerWidth; draw(); }, 120); });
start();
