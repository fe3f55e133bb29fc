"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const names = data.classes;
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 20; // classes of the gallery that are added at a time
  const STRIP = 12; // pictures beside a slider
  const format = (value) => value.toLocaleString("en");
  const short = (name) => (name.trim() === "" ? "(a blank name)" : name.length > 80 ? name.slice(0, 79) + "…" : name);
  const score = (value) => (value === null ? "–" : value.toFixed(3));

  // Everything from data becomes text or an attribute here, never markup.
  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function drawn(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Thumbnails: blocks of base64, of which one is parsed when a picture of it comes near the window.
  const blocks = new Map();
  function source(number) {
    const block = Math.floor(number / data.chunk);
    if (!blocks.has(block)) blocks.set(block, JSON.parse(byId("pictures-" + block).textContent));
    return "data:image/webp;base64," + blocks.get(block)[number % data.chunk];
  }
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      near.unobserve(entry.target);
      entry.target.src = source(Number(entry.target.dataset.picture));
    }
  }, { rootMargin: "300px" });

  const motion = matchMedia("(prefers-reduced-motion: reduce)");
  let still = motion.matches;
  // A canvas shows the first frame of an animation.
  function stop(image) {
    if (!image.naturalWidth || image.nextElementSibling?.tagName === "CANVAS") return;
    const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight, class: image.className, "aria-hidden": "true" });
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.hidden = true;
    image.after(canvas);
  }
  function setStill(value) {
    still = value;
    byId("still")?.setAttribute("aria-pressed", String(still));
    for (const image of document.querySelectorAll("img[data-picture]")) {
      if (still) stop(image);
      else if (image.hidden) { image.nextElementSibling.remove(); image.hidden = false; }
    }
  }
  function thumbnail(number, text) {
    if (number < 0) return element("span", { class: "gone" }, "no picture");
    const image = element("img", { alt: text, "data-picture": number, width: 96, height: 96 });
    image.addEventListener("load", () => {
      if (Math.max(image.naturalWidth, image.naturalHeight) <= 48) image.classList.add("tiny");
      if (still && byId("still")) stop(image);
    });
    near.observe(image);
    return image;
  }

  // Marks: of a picture for a class, "[key,class]"; of a class as a whole, "[null,class]".
  const store = "bsssl-report-" + data.id;
  const marks = new Set();
  function readMarks() {
    marks.clear();
    try { for (const mark of JSON.parse(localStorage.getItem(store) || "[]")) marks.add(mark); } catch { /* not kept */ }
  }
  readMarks();
  const markOf = (key, index) => JSON.stringify([key, index]);
  const quoted = (text) => '"' + text.replaceAll('"', '""') + '"';
  function exclusions() {
    const everywhere = byId("everywhere").checked;
    const rows = [...marks].map((mark) => JSON.parse(mark)).map(([key, index]) =>
      key === null ? "," + quoted(names[index]) : quoted(key) + "," + (everywhere ? "" : quoted(names[index])));
    return ["key,class", ...new Set(rows), ""].join("\n");
  }
  function showMarks() {
    const classes = [...marks].filter((mark) => JSON.parse(mark)[0] === null).length;
    const pictures = marks.size - classes;
    byId("marks").hidden = marks.size === 0;
    byId("marked").textContent = `${format(pictures)} picture${pictures === 1 ? "" : "s"} and ${format(classes)} class${classes === 1 ? "" : "es"} marked`;
    byId("exclusions").value = exclusions();
    for (const button of document.querySelectorAll("button[data-mark]")) {
      button.setAttribute("aria-pressed", String(marks.has(button.dataset.mark)));
    }
  }
  // Only what the reader changes is kept: a page that has just been opened would else write over what another one keeps.
  function keepMarks() {
    showMarks();
    try { localStorage.setItem(store, JSON.stringify([...marks])); } catch { /* not kept */ }
  }
  function toggle(mark) {
    if (!marks.delete(mark)) marks.add(mark);
    keepMarks();
  }
  function markButton(mark, attributes, ...children) {
    return element("button", { type: "button", "data-mark": mark, "aria-pressed": String(marks.has(mark)), onclick: () => toggle(mark), ...attributes }, ...children);
  }
  byId("everywhere").addEventListener("change", showMarks);
  byId("clear").addEventListener("click", () => { marks.clear(); keepMarks(); });
  // Of another window of the report, or of the one before, whose marks may be written late.
  window.addEventListener("storage", (event) => { if (event.key === store) { readMarks(); showMarks(); } });
  byId("export").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([exclusions()], { type: "text/csv" }));
    element("a", { href: url, download: "exclude.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  });

  // Picks: place i of the arrays of a class.
  function pick(index, place) {
    const of = data.picks[index], rank = of.rank[place], right = of.right[place], key = of.key[place];
    const after = rank > data.per_class.picks[index];
    const text = `${short(names[index])}, rank ${format(rank)}${after ? ", not selected" : ""}, score ${score(of.score[place])}`;
    const lines = [
      element("span", { class: "line" }, `${format(rank)} · ${score(of.score[place])}`),
      right === false ? element("span", { class: "line wrong" }, "✗ wrong") : null,
      element("span", { class: "line quiet", title: key }, key.split("/").pop() || key),
    ];
    const says = `${text}${right === false ? ", wrong" : ""}, ${key.slice(0, 200)}`;
    if (after) return element("div", { class: "pick", title: says }, thumbnail(of.thumb[place], says), ...lines);
    return markButton(markOf(key, index), { class: "pick", "aria-label": says + ": mark to leave out" }, thumbnail(of.thumb[place], ""), ...lines);
  }
  const strip = (picks) => element("ul", { class: "plain strip" }, ...picks.map((one) => element("li", {}, one)));

  function ranks(index) {
    const of = data.picks[index], count = data.per_class.picks[index];
    const at = (rank) => of.rank.indexOf(rank);
    const wanted = [["rank 1", 1], ["K/4", Math.floor(count / 4)], ["K/2", Math.floor(count / 2)], [count < data.wanted ? "the last" : "K", count]];
    const groups = [], seen = new Set();
    for (const [title, rank] of wanted) {
      const place = at(rank);
      if (place < 0 || seen.has(place)) continue;
      seen.add(place);
      groups.push([title, [place]]);
    }
    const after = of.rank.map((rank, place) => [rank, place]).filter(([rank]) => rank > count).map(([, place]) => place);
    if (after.length) groups.push(["just after", after]);
    return element("div", { class: "groups" }, ...groups.map(([title, places]) =>
      element("div", {}, element("p", {}, title), strip(places.map((place) => pick(index, place))))));
  }

  function browser(index) {
    const of = data.picks[index], count = data.per_class.picks[index], last = Math.max(count, ...of.rank);
    const details = element("details", {}, element("summary", {}, "All ranks"));
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      const id = "rank-" + index, says = element("output", { for: id }), pictures = element("div", {});
      const slider = element("input", { type: "range", id, min: 1, max: last, value: 1 });
      const show = () => {
        const from = Number(slider.value), first = of.rank.findIndex((rank) => rank >= from);
        const places = of.rank.map((_, place) => place).slice(first < 0 ? of.rank.length : first).slice(0, STRIP);
        const text = `rank ${format(from)} of ${format(count)}` + (places.length ? `, score ${score(of.score[places[0]])}` : "");
        says.value = text;
        slider.setAttribute("aria-valuetext", text);
        pictures.replaceChildren(strip(places.map((place) => pick(index, place))));
      };
      slider.addEventListener("input", show);
      const chart = element("div", { class: "chart" });
      details.append(
        element("label", { for: id }, `Pictures from this rank on; ${format(of.rank.filter((rank) => rank <= count).length)} of ${format(count)} picks have one here`),
        slider, says, pictures, chart);
      const x = pointRanks(count), curves = data.per_class;
      plot(chart, `Score by rank of ${short(names[index])}`, "rank", x, [
        ["score", curves.scores[index]],
        ...(curves.precisions[index] ? [["precision up to the rank", curves.precisions[index].map((one) => one / 100)]] : []),
      ], { low: 0, high: 1 });
      show();
    });
    return details;
  }
  function pointRanks(count) {
    const points = Math.min(25, count), found = new Set();
    for (let point = 0; point < points; point++) found.add(halfEven(points === 1 ? 0 : point * (count - 1) / (points - 1)) + 1);
    return [...found];
  }
  function halfEven(value) {
    const low = Math.floor(value), rest = value - low;
    return rest === 0.5 ? low + (low % 2) : Math.round(value);
  }

  function row(index, chosen) {
    const of = data.per_class, id = "class-" + index;
    const facts = [`${format(of.picks[index])} picks`];
    if (of.lowest[index] !== null) facts.push(`scores down to ${score(of.lowest[index])}`);
    if (of.precision[index] !== null) facts.push(`${of.precision[index].toFixed(1)} % right`);
    const head = element("header", {},
      element("h3", { id, title: names[index].slice(0, 1000) }, short(names[index])),
      element("span", { class: "quiet" }, facts.join(", ")),
      markButton(markOf(null, index), { "aria-label": `Leave out the class ${short(names[index])}` }, "Leave out this class"));
    const body = chosen === null ? [ranks(index), browser(index)] : [strip(chosen.map((place) => pick(index, place)))];
    return element("li", {}, element("article", { class: "class", "aria-labelledby": id }, head, ...body));
  }

  function gallery() {
    const inputs = { name: byId("filter-class"), low: byId("filter-low"), high: byId("filter-high"), order: byId("filter-order"), wrong: byId("filter-wrong") };
    const list = byId("gallery"), more = byId("more");
    const orders = { few: data.per_class.picks, low: data.per_class.median, wrong: data.per_class.precision };
    let waiting = [];
    const add = () => {
      list.append(...waiting.splice(0, PAGE).map(([index, places]) => row(index, places)));
      more.hidden = waiting.length === 0;
    };
    const filter = () => {
      const part = inputs.name.value.toLowerCase(), wrong = inputs.wrong?.checked;
      const low = inputs.low.value === "" ? 0 : Number(inputs.low.value), high = inputs.high.value === "" ? 1 : Number(inputs.high.value);
      const all = !wrong && low <= 0 && high >= 1;
      let found = names.map((_, index) => index).filter((index) => names[index].toLowerCase().includes(part));
      const order = orders[inputs.order.value];
      if (order) found.sort((one, other) => (order[one] ?? 2) - (order[other] ?? 2));
      waiting = found.map((index) => [index, all ? null : data.picks[index].rank.map((_, place) => place).filter((place) => {
        const value = data.picks[index].score[place];
        return value >= low && value <= high && (!wrong || data.picks[index].right[place] === false);
      })]).filter(([, places]) => places === null || places.length);
      const shown = waiting.reduce((sum, [, places]) => sum + (places ? places.length : 0), 0);
      byId("filtered").textContent = `${format(waiting.length)} of ${format(names.length)} classes` + (all ? "" : `, ${format(shown)} of the picks that have a picture here`);
      list.replaceChildren();
      add();
    };
    byId("filters").addEventListener("input", filter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("reset", () => setTimeout(filter));
    more.addEventListener("click", add);
    new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting) && !more.hidden) add(); }, { rootMargin: "600px" }).observe(more);
    byId("still")?.addEventListener("click", () => setStill(!still));
    motion.addEventListener("change", () => setStill(motion.matches));
    if (byId("still")) setStill(still);
    filter();
  }

  // Tables that are sorted by their headers.
  function classTable() {
    const of = data.per_class, tests = data.tested?.top1;
    const columns = [
      ["class", (index) => names[index].toLowerCase(), (index) => element("th", { scope: "row" }, element("a", { href: "#gallery", onclick: () => find(names[index]) }, short(names[index])))],
      ["picks", (index) => of.picks[index], (index) => element("td", {}, format(of.picks[index]))],
      ["of K", (index) => of.picks[index], (index) => element("td", {}, element("meter", { min: 0, max: data.wanted, value: of.picks[index], "aria-label": `${format(of.picks[index])} of ${format(data.wanted)}` }))],
      ["lowest score", (index) => of.lowest[index] ?? -1, (index) => element("td", {}, score(of.lowest[index]))],
      ["median score", (index) => of.median[index] ?? -1, (index) => element("td", {}, score(of.median[index]))],
      ["shared", (index) => of.shared[index], (index) => element("td", {}, format(of.shared[index]))],
    ];
    if (of.precision.some((one) => one !== null)) columns.push(["right %", (index) => of.precision[index] ?? -1, (index) => element("td", {}, of.precision[index]?.toFixed(1) ?? "–")]);
    if (tests) columns.push(["test top-1 %", (index) => tests[index] ?? -1, (index) => element("td", {}, tests[index]?.toFixed(1) ?? "–")]);
    let order = names.map((_, index) => index), most = 200, sorted = null, falls = false;
    order.sort((one, other) => of.picks[one] - of.picks[other]);
    const more = byId("more-rows"), body = element("tbody", {}), heads = [];
    const show = () => {
      body.replaceChildren(...order.slice(0, most).map((index) => element("tr", {}, ...columns.map(([, , cell]) => cell(index)))));
      more.hidden = order.length <= most;
      columns.forEach(([title], number) => heads[number].setAttribute("aria-sort", title === sorted ? (falls ? "descending" : "ascending") : "none"));
    };
    for (const [title, value] of columns) {
      heads.push(element("th", { scope: "col" }, element("button", { type: "button", onclick: () => {
        falls = sorted === title && !falls;
        sorted = title;
        order.sort((one, other) => (value(one) < value(other) ? -1 : value(one) > value(other) ? 1 : one - other) * (falls ? -1 : 1));
        show();
      } }, title)));
    }
    byId("class-table").append(element("thead", {}, element("tr", {}, ...heads)), body);
    more.addEventListener("click", () => { most = Infinity; show(); });
    show();
  }
  function find(name) {
    byId("filter-class").value = name;
    byId("filter-class").dispatchEvent(new Event("input", { bubbles: true }));
  }

  function worst() {
    const wrong = data.picks.flatMap((of, index) => of.right.map((right, place) => [index, place, right]).filter(([, , right]) => right === false));
    wrong.sort(([one, at], [other, there]) => data.picks[other].score[there] - data.picks[one].score[at]);
    byId("worst").replaceChildren(...wrong.slice(0, 24).map(([index, place]) => element("li", {}, pick(index, place), element("p", { class: "quiet item" }, "for " + short(names[index])))));
    if (!wrong.length) byId("worst").replaceWith(element("p", {}, "None of the picks shown is wrong."));
  }

  function shared() {
    byId("shared-rows").append(...data.sharing.pairs.map(({ classes, count, rows }) => element("tr", {},
      element("th", { scope: "row" }, classes.map((index) => short(names[index])).join(" and ")),
      element("td", {}, format(count)),
      element("td", {}, element("ul", { class: "plain strip" }, ...rows.map(([key, number]) =>
        element("li", { class: "pick", title: key.slice(0, 500) }, thumbnail(number, key.slice(0, 200)), element("span", { class: "line quiet" }, key.split("/").pop()))))))));
  }

  function copies() {
    byId("near-rows").append(...data.near.map(({ set, measured, items }) => element("tr", {},
      element("th", { scope: "row" }, items[0][0].split("/").pop()),
      element("td", {}, set === "pool" ? "the pool" : set),
      element("td", {}, measured),
      element("td", {}, element("ul", { class: "plain strip" }, ...items.map(([key, number]) =>
        element("li", { class: "pick", title: key.slice(0, 500) }, thumbnail(number, key.slice(0, 200)), element("span", { class: "line quiet" }, key.split("/").pop()))))))));
  }

  // Confusion: the matrix of all classes, or of those with most errors, and the cells with most items.
  function confusion() {
    const tested = data.tested, most = 25, errors = names.map(() => 0), counts = new Map();
    for (const cell of tested.cells) {
      counts.set(cell.true * names.length + cell.predicted, cell);
      if (cell.true !== cell.predicted) { errors[cell.true] += cell.count; errors[cell.predicted] += cell.count; }
    }
    let shown = names.map((_, index) => index);
    if (shown.length > most) shown = shown.sort((one, other) => errors[other] - errors[one]).slice(0, most).sort((one, other) => one - other);
    const wrong = tested.cells.filter((cell) => cell.true !== cell.predicted).sort((one, other) => other.count - one.count);
    byId("confusion-text").textContent = (shown.length < names.length
      ? `The ${most} of ${format(names.length)} classes with most errors. ` : "") + "Rows are true classes, columns what the student says; a cell opens its pictures."
      + (tested.left_out ? ` ${format(tested.left_out)} cells with the fewest items are left out of the page.` : "");
    const highest = Math.max(1, ...shown.flatMap((of) => shown.filter((as) => as !== of).map((as) => counts.get(of * names.length + as)?.count ?? 0)));
    const button = (cell) => {
      const same = cell.true === cell.predicted;
      const made = element("button", { type: "button", class: same ? "diagonal" : null, onclick: () => open(cell),
        "aria-label": same ? `${format(cell.count)} of ${short(names[cell.true])}, right` : `${format(cell.count)} of ${short(names[cell.true])} taken for ${short(names[cell.predicted])}` }, format(cell.count));
      made.style.setProperty("--share", (same ? 25 : Math.round(15 + 60 * cell.count / highest)) + "%");
      return made;
    };
    const head = (index, scope) => element("th", { scope, title: names[index].slice(0, 1000) }, element("span", {}, short(names[index])));
    byId("matrix").append(
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "true \\ says"), ...shown.map((index) => head(index, "col")))),
      element("tbody", {}, ...shown.map((of) => element("tr", {}, head(of, "row"), ...shown.map((as) => {
        const cell = counts.get(of * names.length + as);
        return element("td", {}, cell ? button(cell) : "");
      })))));
    byId("confused").append(
      element("thead", {}, element("tr", {}, ...["true class", "taken for", "items"].map((title) => element("th", { scope: "col" }, title)))),
      element("tbody", {}, ...wrong.slice(0, 50).map((cell) => element("tr", {},
        element("th", { scope: "row" }, short(names[cell.true])), element("td", { class: "text" }, short(names[cell.predicted])), element("td", {}, button(cell))))));
    if (!wrong.length) byId("confused").replaceWith(element("p", {}, "There are none."));
  }
  function open(cell) {
    const items = cell.rows.filter((line) => line in data.tested.items).map((line) => data.tested.items[line]);
    byId("cell").hidden = false;
    byId("cell-title").textContent = cell.true === cell.predicted ? `${short(names[cell.true])}, right` : `${short(names[cell.true])}, taken for ${short(names[cell.predicted])}`;
    byId("cell-text").textContent = `${format(items.length)} of ${format(cell.count)} test items, the surest first.`;
    byId("cell-items").replaceChildren(...items.map(([key, confidence, number]) => element("li", { class: "pick", title: key.slice(0, 500) },
      thumbnail(number, key.slice(0, 200)), element("span", { class: "line" }, score(confidence)), element("span", { class: "line quiet" }, key.split("/").pop()))));
    byId("cell").focus();
  }

  // Curves, each with the same figures as a table for those who cannot see it.
  function plot(host, title, xTitle, x, series, { low, high, ideal } = {}) {
    const W = Math.min(736, Math.max(280, host.clientWidth || 520)), H = 240, left = 52, right = 10, top = 10, bottom = 34;
    const values = series.flatMap(([, ys]) => ys.filter((y) => y !== null));
    if (!values.length) return;
    const all = series.flatMap(([, , xs]) => xs ?? x);
    const minX = Math.min(...all), maxX = Math.max(...all);
    const minY = low ?? Math.min(...values), maxY = Math.max(high ?? Math.max(...values), minY + 1e-9);
    const px = (value) => left + (W - left - right) * (maxX > minX ? (value - minX) / (maxX - minX) : 0.5);
    const py = (value) => H - bottom - (H - top - bottom) * (value - minY) / (maxY - minY);
    const number = (value) => (Math.abs(value) >= 1000 ? format(Math.round(value)) : String(Number(value.toPrecision(3))));
    const svg = drawn("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}; the figures are in the table below` });
    for (let part = 0; part <= 4; part++) {
      const value = minY + (maxY - minY) * part / 4;
      svg.append(drawn("line", { class: "axis", x1: left, x2: W - right, y1: py(value), y2: py(value) }),
        drawn("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, number(value)));
    }
    svg.append(drawn("text", { x: left, y: H - 18 }, number(minX)), drawn("text", { x: W - right, y: H - 18, "text-anchor": "end" }, number(maxX)),
      drawn("text", { x: (left + W) / 2, y: H - 4, "text-anchor": "middle" }, xTitle));
    if (ideal) svg.append(drawn("line", { class: "ideal", x1: px(minX), y1: py(Math.max(minX, minY)), x2: px(maxX), y2: py(Math.min(maxX, maxY)) }));
    series.forEach(([, ys, xs], place) => {
      const points = ys.map((y, at) => (y === null ? null : `${px((xs ?? x)[at]).toFixed(1)},${py(y).toFixed(1)}`)).filter((point) => point);
      if (points.length === 1) svg.append(drawn("circle", { class: `curve series-${place % 6}`, cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 3 }));
      svg.append(drawn("polyline", { class: `curve series-${place % 6} dash-${place % 6}`, points: points.join(" ") }));
    });
    const legend = element("ul", { class: "legend" }, ...series.map(([name], place) => {
      const key = drawn("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" });
      key.append(drawn("line", { x1: 0, x2: 30, y1: 5, y2: 5, class: `curve series-${place % 6} dash-${place % 6}` }));
      return element("li", {}, key, name);
    }));
    const table = element("details", {}, element("summary", {}, "As a table"));
    table.addEventListener("toggle", () => {
      if (table.childElementCount > 1) return;
      for (const [name, ys, xs] of series) {
        table.append(element("div", { class: "scroll" }, element("table", {}, element("caption", {}, name),
          element("tbody", {}, element("tr", {}, element("th", { scope: "row" }, xTitle), ...(xs ?? x).map((value) => element("td", {}, number(value)))),
            element("tr", {}, element("th", { scope: "row" }, name), ...ys.map((value) => element("td", {}, value === null ? "–" : number(value))))))));
      }
    });
    host.append(svg, legend, table);
  }

  function charts() {
    const hosts = Object.fromEntries([...document.querySelectorAll("[data-chart]")].map((host) => [host.dataset.chart, host]));
    if (hosts["by-rank"]) {
      const { share, precision, ...scores } = data.by_rank;
      const series = Object.entries(scores).map(([name, values]) => [`score, ${name}`, values]);
      if (precision) series.unshift(["precision", precision.map((one) => one === null ? null : one / 100)]);
      plot(hosts["by-rank"], "Score by rank of all classes", "percent of a class's picks", share, series, { low: 0, high: 1 });
    }
    if (hosts.calibration) {
      plot(hosts.calibration, "Calibration", "confidence, percent", [], data.calibration.map((of) => [`${of.title} (ECE ${of.ece.toFixed(1)} %)`, of.accuracy, of.confidence]), { low: 0, high: 100, ideal: true });
    }
    for (const of of data.curves) {
      const host = element("div", { class: "chart" }, element("h3", {}, of.stage));
      byId("curves").append(host);
      if (of.loss) plot(host, `Loss of ${of.stage}`, "step", of.step, [["loss", of.loss]], { low: 0 });
      if (of.accuracy) plot(host, `Accuracy of ${of.stage} while it was trained`, "step", of.step, [["accuracy while training, %", of.accuracy]], { low: 0, high: 100 });
    }
  }

  if (data.picks) {
    gallery();
    classTable();
    if (byId("worst")) worst();
    if (byId("shared-rows")) shared();
    if (byId("near-rows")) copies();
  }
  if (data.tested) confusion();
  charts();
  showMarks();
  document.documentElement.dataset.ready = "yes";
})();
