"use strict";
/* The map of the latents: points by Bokeh, filters of them, the point at hand, the chosen ones, ellipses of fits. */
(async () => {
  const root = document.querySelector(".map");
  const data = JSON.parse(document.querySelector(".map-data").textContent);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const one = (selector) => root.querySelector(selector);
  const latentmix = (globalThis.latentmix ??= {}),
    walk = latentmix.walk;
  const NEAR = 14,
    MOST_IMAGES = 48,
    MOST_BARS = 6,
    REST = 30,
    CORNERS = 72; // pixels; milliseconds; corners of ellipses
  const n = data.count,
    size = data.centre.length;

  const grouped = (number) => number.toLocaleString("en");
  const digits = (value, places = 2) => value.toFixed(places).replace("-", "−");
  const element = (name, text = "", attributes = {}) =>
    Object.assign(document.createElement(name), { textContent: text, ...attributes });

  const { steps, labels, values, picture, placed, tsne, fits } = await latentmix.mapData(data);
  const images = placed && new Map(Array.from(placed, (row, place) => [row, place]));
  const z = (row) => Float64Array.from(data.centre, (centre, k) => centre + data.step * steps[k * n + row]);

  /* Axes: unit vectors of latents or principal components, or t-SNE of some points. */
  const axes = one(".map-axes");
  const unit = (k) => Float64Array.from({ length: size }, (_, j) => (j === k ? 1 : 0));

  function chosenAxes() {
    if (axes.value === "tsne") return null;
    if (axes.value === "plane")
      return data.plane.directions.map((direction, k) => ({
        direction,
        origin: data.plane.origin,
        name: `principal component ${k + 1} (${Math.round(100 * data.plane.explained[k])}% of the variance)`,
      }));
    return ["x", "y"].map((axis) => {
      const k = Number(one(`select[data-axis="${axis}"]`).value);
      return { direction: unit(k), origin: new Float64Array(size), name: `z${k + 1}` };
    });
  }

  function along({ direction, origin }) {
    const places = new Float64Array(n);
    direction.forEach((part, k) => {
      if (part)
        for (let row = 0; row < n; row++)
          places[row] += part * (data.centre[k] + data.step * steps[k * n + row] - origin[k]);
    });
    return places;
  }

  function neighbours() {
    const places = [new Float64Array(n).fill(NaN), new Float64Array(n).fill(NaN)],
      count = tsne.rows.length;
    tsne.rows.forEach((row, k) => places.forEach((of, axis) => (of[row] = tsne.points[axis * count + k] / 655.35)));
    return places;
  }

  /* The plot */
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shade = (colours) => colours[dark.matches ? 1 : 0];
  const { plot, source, ring, outlines, centres, view, drags, wheel, x_range, y_range, recolour } =
    latentmix.mapPlot(n);

  function paint() {
    const style = getComputedStyle(root),
      ink = (name) => style.getPropertyValue(name).trim();
    recolour({ ink: ink("--ink"), muted: ink("--muted"), rule: ink("--line"), page: ink("--page") });
    const colours = data.colours.map(shade),
      grey = shade(data.grey);
    source.data = {
      ...source.data,
      colour: Array.from({ length: n }, (_, row) => (labels ? colours[labels[row]] : grey)),
    };
    drawEllipses();
  }

  let planar = null,
    whole = null;

  function extent(places, rows) {
    let low = Infinity,
      high = -Infinity;
    for (const row of rows) {
      if (places[row] < low) low = places[row];
      if (places[row] > high) high = places[row];
    }
    const margin = 0.05 * (high - low) || 1;
    return [low - margin, high + margin];
  }

  function setAxes() {
    planar = chosenAxes();
    const [x, y] = planar ? planar.map(along) : neighbours();
    const rows = planar ? source.data.x.keys() : tsne.rows;
    const these = [...rows];
    source.data = { ...source.data, x, y };
    whole = [extent(x, these), extent(y, these)];
    plot.below[0].axis_label = planar ? planar[0].name : "t-SNE, first axis; distances between groups mean nothing";
    plot.left[0].axis_label = planar ? planar[1].name : "t-SNE, second axis";
    for (const label of all(".map-axis")) label.hidden = axes.value !== "latents" || size === 2;
    axes.closest("label").hidden = size === 2;
    showAll();
    filter();
    drawEllipses();
  }

  function showAll() {
    const [[left, right], [low, high]] = whole;
    x_range.setv({ start: left, end: right });
    y_range.setv({ start: low, end: high });
  }

  function zoom(factor) {
    for (const range of [x_range, y_range]) {
      const middle = (range.start + range.end) / 2,
        half = ((range.end - range.start) / 2) * factor;
      range.setv({ start: middle - half, end: middle + half });
    }
  }

  function shift(right, up) {
    for (const [range, part] of [
      [x_range, right],
      [y_range, up],
    ]) {
      const by = part * (range.end - range.start);
      range.setv({ start: range.start + by, end: range.end + by });
    }
  }

  /* Ellipses: means and covariances in the plane of the axes */
  function covariance(fit, k, a, b) {
    const start = (k * size * (size + 1)) / 2;
    let sum = 0;
    for (let i = 0; i < size; i++)
      for (let j = 0; j < size; j++) {
        if (!a[i] || !b[j]) continue;
        const [high, low] = i > j ? [i, j] : [j, i];
        sum += a[i] * b[j] * fit.lower[start + (high * (high + 1)) / 2 + low] * fit.scales[i] * fit.scales[j];
      }
    return sum;
  }

  function ellipse(fit, k) {
    const [x, y] = planar.map(({ direction, origin }) =>
      direction.reduce((sum, part, j) => sum + part * (fit.means[k * size + j] - origin[j]), 0),
    );
    const [a, b] = planar.map((axis) => axis.direction);
    const wide = Math.sqrt(Math.max(covariance(fit, k, a, a), 0)),
      lean = wide && covariance(fit, k, a, b) / wide;
    const rest = Math.sqrt(Math.max(covariance(fit, k, b, b) - lean * lean, 0));
    const turns = Array.from({ length: CORNERS + 1 }, (_, corner) => (2 * Math.PI * corner) / CORNERS);
    return {
      x,
      y,
      xs: turns.map((turn) => x + 2 * wide * Math.cos(turn)),
      ys: turns.map((turn) => y + 2 * (lean * Math.cos(turn) + rest * Math.sin(turn))),
    };
  }

  function drawEllipses() {
    const drawn = { xs: [], ys: [], colour: [], dash: [] },
      named = { x: [], y: [], name: [], colour: [] };
    for (const box of all(".map-ellipses input")) {
      box.disabled = !planar;
      if (!box.checked || !planar) continue;
      const fit = fits[box.value],
        told = data.ellipses[box.value],
        names = data.choices.find((choice) => choice.fit === Number(box.value)).names;
      const colour = shade(told.colours);
      for (let k = 0; k < fit.components; k++) {
        const { x, y, xs, ys } = ellipse(fit, k);
        drawn.xs.push(xs);
        drawn.ys.push(ys);
        drawn.colour.push(colour);
        drawn.dash.push(told.dashed ? "dashed" : "solid");
        named.x.push(x);
        named.y.push(y);
        named.name.push(names[k]);
        named.colour.push(colour);
      }
    }
    const none = one(".map-none");
    if (none) none.hidden = Boolean(planar);
    outlines.data = drawn;
    centres.data = named;
  }

  /* Probabilities of classes, or of components without classes, under the chosen fit */
  const fitChoice = one(".map-fit"),
    component = one(".map-component"),
    right = one(".map-right");
  const [from, to] = all(".map-entropy input");
  let fit = null,
    budget = null,
    shares = [],
    entropy = new Float64Array(n);

  function probabilities(row) {
    const sums = new Float64Array(budget.classes.length ? data.classes.length : fit.components);
    let total = 0;
    for (let k = 0; k < fit.components; k++) {
      const share = fit.roots[k * n + row] ** 2;
      sums[budget.classes.length ? budget.classes[k] : k] += share;
      total += share;
    }
    return total ? sums.map((sum) => sum / total) : sums;
  }

  function setFit() {
    if (!fitChoice) return;
    const choice = data.choices[fitChoice.value];
    fit = fits[choice.fit];
    budget = fit.budgets[choice.budget];
    shares = budget.classes.length ? data.classes : choice.names;
    for (let row = 0; row < n; row++)
      entropy[row] = probabilities(row).reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
    component.replaceChildren(
      element("option", "all", { value: "" }),
      ...choice.names.map((name, k) => element("option", name, { value: String(k) })),
    );
    filter();
    if (at >= 0) show(at);
  }

  /* Filters */
  const boxes = all(".map-classes input"),
    count = one(".map-count");
  let shown = [],
    isShown = new Uint8Array(n),
    at = -1;

  function filter() {
    const most = Math.log(Math.max(shares.length, 2)),
      classes = boxes.map((box) => box.checked),
      x = source.data.x;
    const [low, high] = from ? [from, to].map((range) => range.valueAsNumber * most) : [0, 0];
    const bounded = from && (from.valueAsNumber > 0 || to.valueAsNumber < 1);
    const wanted = (row) =>
      !Number.isNaN(x[row]) &&
      (!labels || classes[labels[row]]) &&
      (!component?.value || fit.assigned[row] === Number(component.value)) &&
      (!right?.value || (budget.predicted[row] === labels[row]) === (right.value === "right")) &&
      (!bounded || (entropy[row] >= low - 1e-9 && entropy[row] <= high + 1e-9));
    shown = [];
    for (let row = 0; row < n; row++) {
      isShown[row] = wanted(row);
      if (isShown[row]) shown.push(row);
    }
    view.filter = new Bokeh.Models.IndexFilter({ indices: shown });
    count.textContent = `${grouped(shown.length)} of ${grouped(n)} shown`;
    if (from) {
      one(".map-entropy output").textContent = `${digits(low)} to ${digits(high)} nats`;
      for (const [range, value] of [
        [from, low],
        [to, high],
      ])
        range.setAttribute("aria-valuetext", `${digits(value)} nats`);
    }
    const chosen = source.selected.indices;
    if (chosen.some((row) => !isShown[row])) choose(chosen.filter((row) => isShown[row]));
    if (at >= 0 && !isShown[at]) show(-1);
  }

  /* The point at hand */
  const original = one(".map-original"),
    decoded = one(".map-decoded"),
    table = one(".map-values tbody");
  let decoding = 0;

  function drawImage(canvas, row, left = 0, top = 0) {
    const place = images.get(row),
      { width, height, columns } = data.images,
      context = canvas.getContext("2d");
    context.clearRect(left, top, width, height);
    if (place === undefined) return;
    const [x, y] = [(place % columns) * width, Math.floor(place / columns) * height];
    context.drawImage(picture, x, y, width, height, left, top, width, height);
  }

  function decode(row) {
    const made = walk.decoder.decode(z(row));
    if (decoded) walk.draw(decoded, made);
    else if (table) walk.inUnits(made).forEach((value, k) => (table.rows[k].cells[2].textContent = digits(value)));
    root.dataset.decoded = row;
  }

  function show(row) {
    at = row;
    one(".map-point").hidden = row < 0;
    one(".map-hint").hidden = row >= 0;
    ring.data = row < 0 ? { x: [], y: [] } : { x: [source.data.x[row]], y: [source.data.y[row]] };
    if (row < 0) return;
    const facts = [];
    one(".map-title").textContent = title(row);
    if (images) drawImage(original, row);
    if (fit) {
      const p = probabilities(row),
        order = [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, MOST_BARS);
      if (budget.predicted) facts.push(`predicted ${data.classes[budget.predicted[row]]}`);
      facts.push(
        `component ${data.choices[fitChoice.value].names[fit.assigned[row]]}`,
        `entropy ${digits(entropy[row])} nats`,
      );
      one(".map-bars").replaceChildren(
        ...order
          .filter((k, place) => !place || p[k] >= 0.005)
          .map((k) => {
            const item = element("li"),
              bar = element("b");
            bar.style.width = `${100 * p[k]}%`;
            item.append(element("span", shares[k], { title: shares[k] }), bar, element("span", digits(p[k])));
            return item;
          }),
      );
    }
    one(".map-facts").textContent = facts.join(", ");
    if (values) data.columns.forEach((_, k) => (table.rows[k].cells[1].textContent = digits(values[k * n + row])));
    if (walk) {
      clearTimeout(decoding);
      decoding = setTimeout(() => decode(row), REST);
    }
  }

  function title(row) {
    const place = row === n - 1 ? data.total - 1 : Math.floor(row * ((data.total - 1) / (n - 1)));
    const called = labels ? `: ${data.words.group} ${data.classes[labels[row]]}` : "";
    return `Test ${data.images ? "image" : "point"} ${grouped(place + 1)}${called}`;
  }

  function tell(row) {
    show(row);
    const chosen = source.selected.indices.includes(row) ? ", chosen" : "";
    if (row >= 0) one(".map-told").textContent = `${title(row)}, ${one(".map-facts").textContent}${chosen}`;
  }

  function step(by) {
    if (!shown.length) return;
    const after = by > 0 ? shown.find((row) => row > at) : shown.findLast((row) => at < 0 || row < at);
    tell(after ?? shown.at(by > 0 ? 0 : -1));
    keepInView();
  }

  /* Distances are in parts of the window, a point to the side counts as further. */
  function beside(right, up) {
    if (at < 0) return step(1);
    const { x, y } = source.data,
      width = x_range.end - x_range.start,
      height = y_range.end - y_range.start;
    let best = -1,
      least = Infinity;
    for (const row of shown) {
      const dx = (x[row] - x[at]) / width,
        dy = (y[row] - y[at]) / height;
      const ahead = dx * right + dy * up,
        aside = Math.abs(dx * up) + Math.abs(dy * right);
      if (row !== at && ahead > 1e-9 && ahead + 2 * aside < least) [best, least] = [row, ahead + 2 * aside];
    }
    if (best >= 0) tell(best);
    keepInView();
  }

  function keepInView() {
    const part = (place, { start, end }) => (place - start) / (end - start);
    const outside = (place) => (place < 0.02 || place > 0.98 ? place - 0.5 : 0);
    if (at >= 0) shift(outside(part(source.data.x[at], x_range)), outside(part(source.data.y[at], y_range)));
  }

  /* The chosen points */
  function choose(rows) {
    source.selected.indices = rows;
  }

  function showChosen() {
    const chosen = [...source.selected.indices].sort((a, b) => a - b),
      block = one(".map-chosen"),
      canvas = one(".map-images");
    block.hidden = !chosen.length;
    const drawn = images ? chosen.filter((row) => images.has(row)).slice(0, MOST_IMAGES) : [];
    const rest = drawn.length < chosen.length && images ? `, ${grouped(drawn.length)} of them below` : "";
    one(".map-number").textContent = chosen.length ? `${grouped(chosen.length)} chosen${rest}` : "";
    if (canvas && drawn.length) {
      const { width, height } = data.images,
        columns = Math.min(12, drawn.length);
      canvas.width = columns * (width + 1) - 1;
      canvas.height = Math.ceil(drawn.length / columns) * (height + 1) - 1;
      canvas.style.maxWidth = `${columns * Math.min(64, Math.max(32, 2 * width))}px`;
      drawn.forEach((row, k) =>
        drawImage(canvas, row, (k % columns) * (width + 1), Math.floor(k / columns) * (height + 1)),
      );
      canvas.setAttribute("aria-label", `${drawn.length} chosen images`);
    }
    if (canvas) canvas.hidden = !drawn.length;
    if (labels) {
      const counts = data.classes.map(() => 0),
        totals = data.classes.map(() => 0);
      labels.forEach((label) => totals[label]++);
      chosen.forEach((row) => counts[labels[row]]++);
      const percent = (part, of) => (of ? `${digits((100 * part) / of, 1)}%` : "−");
      const order = [...counts.keys()].filter((k) => counts[k]).sort((a, b) => counts[b] - counts[a]);
      one(".map-table tbody").replaceChildren(
        ...order.map((k) => {
          const line = element("tr");
          const cells = [grouped(counts[k]), percent(counts[k], chosen.length), percent(counts[k], totals[k])];
          line.append(
            element("th", data.classes[k], { className: "word", scope: "row" }),
            ...cells.map((cell) => element("td", cell)),
          );
          return line;
        }),
      );
    }
  }

  source.selected.properties.indices.change.connect(showChosen);

  function goHere() {
    if (!walk || at < 0) return;
    walk.go(z(at));
    document.querySelector("#walk").scrollIntoView();
  }

  /* Pointer: the nearest point within reach; a click keeps it until the next. */
  const place = one(".map-plot");
  let kept = false,
    plotView = null;

  function nearest({ sx, sy }) {
    const { x_scale, y_scale } = plotView.frame,
      { x, y } = source.data;
    const xs = x_scale.v_compute(x),
      ys = y_scale.v_compute(y);
    let best = -1,
      least = NEAR ** 2;
    for (const row of shown) {
      const distance = (xs[row] - sx) ** 2 + (ys[row] - sy) ** 2;
      if (distance < least) [best, least] = [row, distance];
    }
    return best;
  }

  plot.on_event("mousemove", (event) => {
    const row = kept ? -1 : nearest(event);
    if (row >= 0 && row !== at) show(row);
  });
  for (const kind of ["tap", "doubletap"])
    plot.on_event(kind, (event) => {
      const row = nearest(event);
      kept = row >= 0;
      tell(row);
    });

  /* Controls */
  const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
  place.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in KEYS) event.shiftKey ? shift(...KEYS[key].map((part) => 0.1 * part)) : beside(...KEYS[key]);
    else if (key === "n" || key === "p") step(key === "n" ? 1 : -1);
    else if (key === " ") {
      const chosen = source.selected.indices;
      if (at >= 0) choose(chosen.includes(at) ? chosen.filter((row) => row !== at) : [...chosen, at]);
      tell(at);
    } else if (key === "Enter") goHere();
    else if (key === "+" || key === "=") zoom(0.5);
    else if (key === "-") zoom(2);
    else if (key === "0") showAll();
    else if (key === "Escape") choose([]);
    else return;
    event.preventDefault();
  });
  place.addEventListener("focusin", () => (plot.toolbar.active_scroll = wheel));
  place.addEventListener("focusout", () => (plot.toolbar.active_scroll = null));
  place.addEventListener("pointerdown", () => place.focus({ preventScroll: true }));
  const on = (elements, kind, act) => elements.forEach((each) => each?.addEventListener(kind, () => act(each)));
  on(all("input[name=map-drag]"), "change", (radio) => (plot.toolbar.active_drag = drags[radio.value]));
  on(all("[data-zoom]"), "click", ({ dataset }) => (Number(dataset.zoom) ? zoom(Number(dataset.zoom)) : showAll()));
  on(all("[data-step]"), "click", ({ dataset }) => step(Number(dataset.step)));
  on(all(".map-axes, .map-axis select"), "change", setAxes);
  on([fitChoice], "change", setFit);
  on([...boxes, component, right], "change", filter);
  on([from, to], "input", filter);
  on(all(".map-ellipses input"), "change", drawEllipses);
  on(all("[data-all]"), "click", ({ dataset }) => {
    for (const box of boxes) box.checked = Boolean(dataset.all);
    filter();
  });
  on(all("[data-choose]"), "click", ({ dataset }) => choose(dataset.choose === "shown" ? [...shown] : []));
  on([one(".map-go")], "click", goHere);
  dark.addEventListener("change", paint);

  for (const canvas of [original, decoded])
    if (canvas) [canvas.width, canvas.height] = [data.images.width, data.images.height];
  if (table)
    table.replaceChildren(
      ...data.columns.map((column) => {
        const line = element("tr");
        line.append(
          element("th", column, { className: "word", scope: "row" }),
          element("td"),
          ...(walk ? [element("td")] : []),
        );
        return line;
      }),
    );
  document.querySelector(".map-without").hidden = true;
  root.hidden = false;
  setFit();
  setAxes();
  paint();
  const book = new (Bokeh.require("document").Document)();
  book.add_root(plot);
  const views = await Bokeh.require("embed/standalone").add_document_standalone(book, place);
  plotView = views.get(plot);
  plotView.canvas_view.events_el.tabIndex = -1; // the map around it takes the keys
  latentmix.map = {
    plot,
    plotView,
    source,
    view,
    z,
    show,
    choose,
    shown: () => shown,
    chosen: () => [...source.selected.indices],
    at: () => at,
    outlines,
    fits,
    probabilities,
  };
  root.dataset.drawn = "yes";
})();
