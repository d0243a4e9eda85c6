// What a reader can do with the page beyond reading it; without this script everything is shown.
"use strict";
document.documentElement.classList.add("scripted");

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const pressed = (button, on) => button.setAttribute("aria-pressed", String(on));
const runs = JSON.parse(document.getElementById("runs").textContent);

// Light and dark: the system's until the reader chooses; a page from disk may have no storage.
function theme() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const store = (value) => { try { localStorage.setItem("theme", value); } catch { /* this visit only */ } };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  if (stored()) root.dataset.theme = stored();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    store(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();
}

// Tables: a press sorts a column downwards, another upwards, a third restores the order.
function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = all("thead th", table);
  const basis = table.closest(".exhibit")?.querySelector("[data-basis]");
  const key = (row, index) => {
    const cell = row.cells[index];
    const text = cell.dataset[index ? basis?.value ?? "value" : "value"] ?? (cell.matches("th, .words") ? cell.textContent.trim() : "");
    const number = Number(text);
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const signs = { ascending: 1, descending: -1 };
  const order = (a, b) =>
    typeof a === typeof b && typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  const sort = (index, direction) => {
    const keyed = original.map((row) => [key(row, index), row]);
    const known = keyed.filter(([value]) => value !== null).sort(([a], [b]) => direction * order(a, b));
    const empty = keyed.filter(([value]) => value === null);
    body.append(...(direction ? [...known, ...empty].map(([, row]) => row) : original));
  };
  heads.forEach((head, index) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = original.some((row) => typeof key(row, index) === "number") ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const next = now === null ? first : now === first ? second : null;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      sort(index, signs[next] ?? 0);
    });
  });
  basis?.addEventListener("change", () => {
    const index = heads.findIndex((head) => head.hasAttribute("aria-sort"));
    if (index > 0) sort(index, signs[heads[index].getAttribute("aria-sort")]);
  });
}

// The claims by verdict and by source.
function filters() {
  const rows = all("#verdicts tbody tr");
  const shown = document.querySelector(".shown");
  const buttons = all("button[data-filter]");
  const chosen = { verdict: "", source: "" };
  const apply = () => {
    rows.forEach((row) => {
      row.hidden = Object.entries(chosen).some(([name, value]) => value && row.dataset[name] !== value);
    });
    buttons.forEach((button) => pressed(button, chosen[button.dataset.filter] === button.value));
    const count = rows.filter((row) => !row.hidden).length;
    shown.textContent = count === rows.length ? `All ${count} claims` : `${count} of ${rows.length} claims`;
  };
  buttons.forEach((button) => button.addEventListener("click", () => {
    const name = button.dataset.filter;
    chosen[name] = chosen[name] === button.value ? "" : button.value;
    apply();
  }));
}

// One tooltip for the page: where a number comes from, or the curves' values under the pointer.
const tip = {
  element: document.getElementById("tip"),
  show(target, lines, x, y, beside = false) {
    this.element.replaceChildren(...lines);
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const room = document.documentElement.clientWidth - width - 8;
    const above = y - height - 12;
    const right = x + 18 <= room ? x + 18 : x - width - 18;
    const [left, top] = beside ? [right, y - height / 2] : [x - width / 2, above > 8 ? above : y + 24];
    this.element.style.left = `${Math.max(8, Math.min(left, room))}px`;
    this.element.style.top = `${top}px`;
    if (this.target !== target) this.hide(false);
    this.target = target;
    target.setAttribute("aria-describedby", "tip");
  },
  hide(whole = true) {
    this.target?.removeAttribute("aria-describedby");
    this.target = null;
    if (whole) this.element.hidden = true;
  },
};

function provenance(cell) {
  const run = runs[cell.closest("tr").dataset.row];
  if (!run?.settings) return null;
  const lines = [make("b", { textContent: run.label })];
  const add = (text) => lines.push(make("span", { textContent: text }));
  if (cell.dataset.rests) add(cell.dataset.rests);
  else add(`seeds ${run.seeds.join(", ")}`);
  add(`settings ${run.settings} · code ${run.revisions.join(", ")}`);
  add(`${run.devices.join(", ") || "device not recorded"} · ${run.started}`);
  return lines;
}

function origins(table) {
  const of = (node) => node.closest("tr[data-row] > td, tr[data-row] > th");
  const show = (event) => {
    const cell = of(event.target);
    const lines = cell && provenance(cell);
    if (!lines) return tip.hide();
    const target = cell.querySelector("a.run") ?? cell;
    const { left, width, top } = cell.getBoundingClientRect();
    return tip.show(target, lines, left + width / 2, top + 6);
  };
  table.addEventListener("mouseover", show);
  table.addEventListener("mouseleave", () => tip.hide());
  table.addEventListener("focusin", show);
  table.addEventListener("focusout", () => tip.hide());
  // Arrow keys walk the cells, from a row's name on.
  all("tr[data-row] > td", table).forEach((cell) => { cell.tabIndex = -1; });
  table.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const cell = of(event.target);
    if (!step || !cell) return;
    const row = table.tBodies[0].rows[cell.parentElement.sectionRowIndex + step[0]];
    const next = row?.cells[cell.cellIndex + step[1]];
    (next?.querySelector("a.run") ?? next)?.focus();
    event.preventDefault();
  });
}

// Boards of images: one prompt or all, and which runs.
function board(element) {
  const table = element.querySelector("table");
  const select = element.querySelector("select");
  const apply = () => {
    const prompt = select.value;
    const chosen = all("input", element).filter((box) => box.checked).map((box) => Number(box.value));
    table.style.setProperty("--runs", chosen.length);
    [...table.tBodies[0].rows].forEach((row, index) => { row.hidden = prompt !== "" && Number(prompt) !== index; });
    all("tr", table).forEach((row) => {
      [...row.cells].slice(1).forEach((cell, index) => { cell.hidden = !chosen.includes(index); });
    });
    table.classList.toggle("one", prompt !== "");
  };
  all("[data-step]", element).forEach((button) => button.addEventListener("click", () => {
    const count = select.options.length;
    select.selectedIndex = (select.selectedIndex + Number(button.dataset.step) + count) % count;
    apply();
  }));
  element.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  element.querySelector("form").addEventListener("change", apply);
}

// Curves: a legend that hides runs, and their values under the pointer.
function curves(figure) {
  const svg = figure.querySelector("svg");
  const scales = JSON.parse(figure.dataset.scales);
  const named = all("[data-run]", svg);
  const line = (group) => all("path", group).find((path) => path.style.fill === "none" && path.style.stroke);
  const hidden = new Set();
  const legend = make("ul", { className: "legend" });
  [...new Set(named.map((group) => group.dataset.run))].forEach((run) => {
    const drawn = named.filter((group) => group.dataset.run === run);
    const swatch = make("span");
    swatch.innerHTML = '<svg viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26"/></svg>';
    swatch.querySelector("path").style.cssText = drawn.map(line).find(Boolean)?.style.cssText ?? "";
    const button = make("button", { type: "button" }, swatch.firstChild, runs[run]?.label ?? run);
    pressed(button, true);
    button.addEventListener("click", () => {
      if (!hidden.delete(run)) hidden.add(run);
      drawn.forEach((group) => { group.style.display = hidden.has(run) ? "none" : ""; });
      pressed(button, !hidden.has(run));
    });
    legend.append(make("li", {}, button));
  });
  figure.prepend(legend);

  const value = (scale, share) => {
    const [low, high] = scale.log ? scale.limits.map(Math.log) : scale.limits;
    const found = low + share * (high - low);
    return scale.log ? Math.exp(found) : found;
  };
  const print = (number) => Number(number.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 5 });
  const panels = all('[data-part="axes"]', svg).map((axes, index) => ({
    scale: scales[index],
    frame: axes.querySelector("path"),
    lines: all("[data-run]", axes).filter(line).map((group) => ({
      run: group.dataset.run,
      color: line(group).style.stroke,
      points: (line(group).getAttribute("d").match(/-?[\d.]+(?:e-?\d+)?/g) ?? []).map(Number),
    })),
  }));
  const at = (points, x) => {
    for (let i = 2; i < points.length; i += 2) {
      if (points[i - 2] <= x && x <= points[i]) {
        const share = (x - points[i - 2]) / (points[i] - points[i - 2] || 1);
        return points[i - 1] + share * (points[i + 1] - points[i - 1]);
      }
    }
    return null;
  };
  svg.addEventListener("pointermove", (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const inside = ({ frame }) => {
      const box = frame.getBBox();
      return box.x <= x && x <= box.x + box.width && box.y <= y && y <= box.y + box.height;
    };
    const panel = panels.find(inside);
    if (!panel) return tip.hide();
    const box = panel.frame.getBBox();
    const found = panel.lines
      .filter(({ run }) => !hidden.has(run))
      .map((entry) => ({ ...entry, y: at(entry.points, x) }))
      .filter((entry) => entry.y !== null)
      .sort((a, b) => a.y - b.y);
    const where = `${panel.scale.x.label || "x"} ${print(value(panel.scale.x, (x - box.x) / box.width))}`;
    const lines = found.map(({ run, color, y: height }) => {
      const dot = make("i");
      dot.style.background = color;
      const read = value(panel.scale.y, (box.y + box.height - height) / box.height);
      return make("span", {}, dot, `${runs[run]?.label ?? run} ${print(read)}`);
    });
    return tip.show(svg, [make("b", { textContent: where }), ...lines], event.clientX, event.clientY, true);
  });
  svg.addEventListener("pointerleave", () => tip.hide());
}

// The navigation marks the section that is being read.
function position() {
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "location");
  }), { rootMargin: "-20% 0px -70%" });
  all("main > section").forEach((section) => seen.observe(section));
}

// A printed page shows what the reader would have had to open.
function print() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
}

theme();
all("table.sortable").forEach(sortable);
filters();
all(".exhibit table").forEach(origins);
all(".board form").forEach((form) => board(form.closest(".board")));
all("figure[data-scales]").forEach(curves);
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hide(); });
addEventListener("scroll", () => tip.hide(), { passive: true });
position();
print();
