"use strict";
// Small charts in SVG: axes, lines, bands, dots, hover and keys. A chart knows runs by their index only.

const NS = "http://www.w3.org/2000/svg";
const charts = [];
let highlighted = null;

function node(name, attributes, parent) {
  const made = document.createElementNS(NS, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (parent) parent.append(made);
  return made;
}

function element(name, properties, ...children) {
  const { data, aria, ...rest } = properties || {};
  const made = Object.assign(document.createElement(name), rest);
  for (const key in aria || {}) made.setAttribute("aria-" + key, aria[key]);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(Math.abs(value) < step * 1e-6 ? 0 : value);
  return found;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e5) return value.toExponential(1);
  return String(+value.toPrecision(size >= 1000 ? 4 : 3));
}

const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  (r) => `M${-r * 0.9},${-r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}Z`,
  (r) => `M0,${-r * 1.3}L${r * 1.3},0L0,${r * 1.3}L${-r * 1.3},0Z`,
  (r) => `M0,${-r * 1.15}L${r * 1.15},${r * 0.85}H${-r * 1.15}Z`,
  (r) => `M0,${r * 1.15}L${r * 1.15},${-r * 0.85}H${-r * 1.15}Z`,
  (r) => `M${-r * 0.4},${-r * 1.2}h${r * 0.8}v${r * 0.8}h${r * 0.8}v${r * 0.8}h${-r * 0.8}v${r * 0.8}h${-r * 0.8}v${-r * 0.8}h${-r * 0.8}v${-r * 0.8}h${r * 0.8}Z`,
  (r) => `M${-r * 1.2},0L${-r * 0.6},${-r}H${r * 0.6}L${r * 1.2},0L${r * 0.6},${r}H${-r * 0.6}Z`,
];

function shape(parent, x, y, which, color, radius, hollow) {
  const path = SHAPES[which % SHAPES.length](radius);
  return node("path", { d: path, transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`, fill: hollow ? "var(--card)" : color, stroke: hollow ? color : "var(--card)", "stroke-width": hollow ? 1.8 : 1 }, parent);
}

function extent(values, pad) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  if (low > high) return [0, 1];
  if (low === high) { low -= Math.abs(low) * 0.05 || 0.5; high += Math.abs(high) * 0.05 || 0.5; }
  return [low - (high - low) * pad, high + (high - low) * pad];
}

/* spec: {label, xlabel, ylabel, x: [low, high]?, y?, xticks?: [[value, text]], yticks?, height?, areas: [{points, color, rule}],
   bands: [{points: [[x, low, high]], color}], lines: [{points, color, width, opacity, dash, name}],
   tracks: [{run, points, color, faint}], dots: [{run, x, y, color, shape, hollow, r}], names: [{x, y, text, color}], tip(run, x, y, target)} */
function chart(holder, spec) {
  const width = Math.max(260, holder.clientWidth), height = spec.height || Math.round(Math.min(430, Math.max(230, width * 0.6)));
  const lines = spec.lines || [], tracks = spec.tracks || [], dots = spec.dots || [], bands = spec.bands || [];
  const named = lines.filter((line) => line.name && line.points.length);
  const longest = Math.max(0, ...named.map((line) => line.name.length));
  const side = Math.max(0, ...(spec.yticks || []).map((tick) => tick[1].length));
  const margin = { top: 10, right: named.length ? Math.min(width * 0.36, longest * 7.8 + 14) : 12, bottom: 36, left: spec.yticks ? Math.min(width * 0.42, side * 6.6 + 14) : 48 };
  const every = [...lines, ...tracks].flatMap((line) => line.points);
  const [x0, x1] = spec.x || extent([...every.map((p) => p[0]), ...dots.map((d) => d.x)], 0.02);
  const [y0, y1] = spec.y || extent([...every.map((p) => p[1]), ...dots.map((d) => d.y), ...bands.flatMap((b) => b.points.flatMap((p) => [p[1], p[2]]))], 0.06);
  const px = (x) => margin.left + ((x - x0) / (x1 - x0)) * (width - margin.left - margin.right);
  const py = (y) => height - margin.bottom - ((y - y0) / (y1 - y0)) * (height - margin.top - margin.bottom);
  const path = (points) => points.map((p, i) => (i ? "L" : "M") + px(p[0]).toFixed(1) + "," + py(p[1]).toFixed(1)).join("");
  const svg = node("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img", "aria-label": spec.label + ". Arrow keys go through its points." });
  const clip = "clip" + charts.length;
  node("rect", { x: margin.left, y: margin.top, width: width - margin.left - margin.right, height: height - margin.top - margin.bottom }, node("clipPath", { id: clip }, node("defs", {}, svg)));
  for (const [value, text] of spec.xticks || ticks(x0, x1, Math.max(2, Math.round(width / 95))).map((t) => [t, number(t)])) {
    node("line", { class: "gridline", x1: px(value), x2: px(value), y1: margin.top, y2: height - margin.bottom }, svg);
    node("text", { x: px(value), y: height - margin.bottom + 15, "text-anchor": "middle" }, svg).textContent = text;
  }
  for (const [value, text] of spec.yticks || ticks(y0, y1, Math.round(height / 55)).map((t) => [t, number(t)])) {
    node("line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: py(value), y2: py(value) }, svg);
    const full = text.length * 6.6 > margin.left - 10 ? text.slice(0, Math.floor((margin.left - 14) / 6.6)) + "…" : text;
    node("text", { x: margin.left - 7, y: py(value) + 4, "text-anchor": "end" }, svg).textContent = full;
  }
  if (spec.xlabel) node("text", { x: (margin.left + width - margin.right) / 2, y: height - 4, "text-anchor": "middle" }, svg).textContent = spec.xlabel;
  if (spec.ylabel) node("text", { transform: `translate(11,${(margin.top + height - margin.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, svg).textContent = spec.ylabel;
  const inside = node("g", { "clip-path": `url(#${clip})` }, svg);
  for (const area of spec.areas || []) node("path", { d: area.points.map((ring) => path(ring) + "Z").join(""), fill: area.color, "fill-rule": "evenodd", "fill-opacity": area.opacity || 1 }, inside);
  for (const band of bands) if (band.points.length > 1) node("path", { d: path(band.points.map((p) => [p[0], p[2]])) + "L" + path(band.points.map((p) => [p[0], p[1]]).reverse()).slice(1) + "Z", fill: band.color, "fill-opacity": 0.15 }, inside);
  for (const track of tracks) if (track.faint) node("path", { d: path(track.points), fill: "none", stroke: track.color, "stroke-width": 1, "stroke-opacity": 0.28 }, inside);
  for (const line of lines) node("path", { d: path(line.points), fill: "none", stroke: line.color, "stroke-width": line.width || 2, "stroke-opacity": line.opacity || 1, "stroke-dasharray": line.dash || "none", "stroke-linejoin": "round" }, inside);
  for (const dot of dots) shape(inside, px(dot.x), py(dot.y), dot.shape || 0, dot.color, dot.r || 4, dot.hollow);
  place(named.map((line) => ({ text: line.name, color: line.color, y: py(line.points.at(-1)[1]), x: width - margin.right + 6 })), svg, margin.top + 8, height - margin.bottom);
  placeNames((spec.names || []).filter((n) => n.x >= x0 && n.x <= x1 && n.y >= y0 && n.y <= y1).map((n) => ({ ...n, x: px(n.x), y: py(n.y) })), [...dots.map((d) => [d.x, d.y]), ...(spec.avoid || [])].map((p) => [px(p[0]), py(p[1])]), svg, width - margin.right, margin);
  const targets = [...dots.filter((d) => d.run !== undefined).map((d) => ({ ...d, px: px(d.x), py: py(d.y) })),
    ...tracks.flatMap((t) => t.points.map((p) => ({ run: t.run, x: p[0], y: p[1], px: px(p[0]), py: py(p[1]) })))]
    .filter((t) => t.px >= margin.left - 1 && t.px <= width - margin.right + 1 && t.py >= margin.top - 1 && t.py <= height - margin.bottom + 1);
  const overlay = node("g", { "clip-path": `url(#${clip})`, "pointer-events": "none" }, svg);
  const made = { svg, highlight(run, at) {
    overlay.replaceChildren();
    if (run === null) return;
    for (const track of tracks) if (track.run === run) node("path", { d: path(track.points), fill: "none", stroke: track.color, "stroke-width": 3, "stroke-linejoin": "round" }, overlay);
    for (const dot of dots) if (dot.run === run) shape(overlay, px(dot.x), py(dot.y), dot.shape || 0, dot.color, (dot.r || 4) + 3, dot.hollow);
    if (at) node("circle", { cx: at.px, cy: at.py, r: 5, fill: "var(--card)", stroke: "var(--ink)", "stroke-width": 2 }, overlay);
  } };
  const show = (target, clientX, clientY) => { highlight(target.run, made, target); tip(spec.tip(target), clientX, clientY); };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = width / box.width;
    const mx = (event.clientX - box.left) * scale, my = (event.clientY - box.top) * scale;
    let best = null, least = 42 ** 2;
    for (const target of targets) { const d = (target.px - mx) ** 2 + (target.py - my) ** 2; if (d < least) { least = d; best = target; } }
    best ? show(best, event.clientX, event.clientY) : rest();
  });
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  let at = -1;
  const ordered = [...targets].sort((a, b) => a.run - b.run || a.px - b.px);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return rest();
    if (!move || !ordered.length) return;
    event.preventDefault();
    at = (at + move + ordered.length) % ordered.length;
    const box = svg.getBoundingClientRect(), scale = box.width / width;
    show(ordered[at], box.left + ordered[at].px * scale, box.top + ordered[at].py * scale);
  });
  holder.replaceChildren(svg);
  charts.push(made);
}

function place(names, svg, top, bottom) {
  names.sort((a, b) => a.y - b.y);
  names.forEach((name, i) => { name.y = Math.max(name.y, i ? names[i - 1].y + 13 : top); });
  for (let i = names.length - 1; i >= 0; i--) names[i].y = Math.min(names[i].y, i === names.length - 1 ? bottom : names[i + 1].y - 13);
  for (const name of names) write(name, "start", svg);
}

function placeNames(names, dots, svg, right, margin) {
  const taken = [];
  for (const name of names) {
    const size = name.text.length * 6.7;
    const tries = [[9, 4, "start"], [-9, 4, "end"], [0, -11, "middle"], [0, 19, "middle"], [9, -10, "start"], [9, 18, "start"], [-9, -10, "end"], [-9, 18, "end"], [9, -24, "start"], [9, 32, "start"], [-9, -24, "end"], [-9, 32, "end"]];
    let best = null, least = Infinity;
    for (const [dx, dy, anchor] of tries) {
      const left = name.x + dx - (anchor === "end" ? size : anchor === "middle" ? size / 2 : 0), y = name.y + dy;
      const box = [left, y - 10, left + size, y + 3];
      let cost = Math.abs(dx) * 0.01 + Math.abs(dy) * 0.02;
      if (box[0] < margin.left || box[2] > right + 8 || box[1] < 2) cost += 50;
      for (const other of taken) if (box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1]) cost += 20;
      for (const [x, yy] of dots) if (x > box[0] - 3 && x < box[2] + 3 && yy > box[1] - 3 && yy < box[3] + 3) cost += 3;
      if (cost < least) { least = cost; best = { x: name.x + dx, y, anchor, box }; }
    }
    taken.push(best.box);
    write({ ...name, x: best.x, y: best.y }, best.anchor, svg, 0);
  }
}

function write(name, anchor, svg, drop = 4) {
  node("text", { class: "name", x: name.x, y: name.y + drop, "text-anchor": anchor, style: `fill:${name.color}` }, svg).textContent = name.text;
}

function highlight(run, from, at) {
  if (run === highlighted && !from) return;
  highlighted = run;
  for (const one of charts) one.highlight(run, one === from ? at : null);
}

function rest() { highlight(null); document.getElementById("tip").hidden = true; }

function tip(rows, x, y) {
  const box = document.getElementById("tip");
  box.replaceChildren(element("b", { textContent: rows[0] }), ...rows.slice(1).map((row) => element("div", { textContent: row })));
  box.hidden = false;
  const { width, height } = box.getBoundingClientRect();
  box.style.left = Math.max(6, Math.min(innerWidth - width - 6, x + 14)) + "px";
  box.style.top = (y + height + 24 > innerHeight ? Math.max(6, y - height - 12) : y + 16) + "px";
}
