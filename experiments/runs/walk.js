"use strict";
/* The walk through the latent space: sliders, a plane, test data and lines between them, all of one latent z. */
(() => {
  const root = document.querySelector(".walk");
  const data = JSON.parse(document.querySelector(".walk-data").textContent);
  const decoder = latentmix.decoder(data.decoder);
  const all = (selector) => [...root.querySelectorAll(selector)];
  const one = (selector) => root.querySelector(selector);
  const [channels, height, width] = decoder.shape.length === 3 ? decoder.shape : [0, 0, 0];
  const IN_STRIP = 9, SLICE = 12, PAUSE = 80; // images; milliseconds of work, and of rest before strips are drawn

  const z = Float64Array.from(data.centre);
  const sliders = all("input[data-latent]"), image = one(".walk-image"), place = one(".walk-place");
  const plane = one(".walk-plane canvas"), along = one(".walk-along"), between = one(".walk-between");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const digits = (value) => value.toFixed(2).replace(/^-(?=.*[1-9])/, "−").replace("-", "");

  /* Pixels, in the order of their shape and in [0, 1], into a canvas at a column. */
  function draw(canvas, values, left = 0) {
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height), area = width * height;
    for (let k = 0; k < area; k++) {
      for (let c = 0; c < 3; c++) picture.data[4 * k + c] = 255 * values[(channels === 3 ? c * area : 0) + k];
      picture.data[4 * k + 3] = 255;
    }
    context.putImageData(picture, left, 0);
  }

  function sized(canvas, columns = 1) {
    canvas.width = columns * width;
    canvas.height = height;
    return canvas;
  }

  function inUnits(values) {
    const units = data.units;
    return units ? values.map((value, k) => value * units.scale[k] + units.centre[k]) : values;
  }

  /* Strips are drawn in slices when z rests, and a new z ends those of the one before. */
  const strips = all(".walk-latent .walk-strip").map((canvas) => {
    const k = Number(canvas.dataset.latent), step = (data.high[k] - data.low[k]) / IN_STRIP;
    const moved = (n) => Float64Array.from(z, (value, j) => (j === k ? data.low[k] + (n + 0.5) * step : value));
    return { canvas: sized(canvas, IN_STRIP), at: moved };
  });
  const line = between && { canvas: sized(between, IN_STRIP), at: (n) => onLine(n / (IN_STRIP - 1)) };
  let drawing = 0, frame = 0, pending = [];

  const later = (work) => {
    pending.push(...work.flatMap((strip) => Array.from({ length: IN_STRIP }, (_, n) => [strip, n])));
    clearTimeout(drawing);
    drawing = setTimeout(() => {
      tell();
      slice();
    }, PAUSE);
    root.dataset.strips = "drawing";
  };

  function slice() {
    const end = performance.now() + SLICE;
    while (pending.length && performance.now() < end) {
      const [strip, n] = pending.shift();
      if (!strip.canvas.closest("details:not([open])")) draw(strip.canvas, decoder.decode(strip.at(n)), n * width);
    }
    if (pending.length) drawing = setTimeout(slice);
    else root.dataset.strips = "drawn";
  }

  function tell() {
    const shown = sliders.slice(0, 3).map((slider) => Number(slider.dataset.latent)).sort((a, b) => a - b);
    const words = shown.map((k) => `z${k + 1} = ${digits(z[k])}`).join(", ") + (z.length > shown.length ? ", …" : "");
    place.textContent = words;
    image?.setAttribute("aria-label", `Image decoded at ${words}`);
  }

  function show() {
    frame = 0;
    const values = decoder.decode(z);
    if (image) draw(image, values);
    else all(".walk-values td").forEach((cell, k) => (cell.textContent = digits(inUnits(values)[k])));
    if (plane) drawPlane();
    pending = pending.filter(([strip]) => strip === line);
    later(strips);
  }

  function moved() {
    for (const slider of sliders) {
      const k = Number(slider.dataset.latent);
      slider.value = z[k];
      root.querySelector(`output[for="${slider.id}"]`).textContent = digits(z[k]);
      slider.setAttribute("aria-valuetext", digits(z[k]));
    }
    frame ||= requestAnimationFrame(show);
  }

  function go(latent) {
    z.set(latent);
    moved();
  }

  for (const slider of sliders)
    slider.addEventListener("input", () => {
      z[slider.dataset.latent] = slider.valueAsNumber;
      moved();
    });

  for (const { canvas } of strips)
    canvas.addEventListener("click", (event) => {
      const k = Number(canvas.dataset.latent), part = event.offsetX / canvas.clientWidth;
      z[k] = data.low[k] + part * (data.high[k] - data.low[k]);
      moved();
    });

  /* Test data, and the line between two of them */
  const chosen = (name) => data.latents[one(name).value];

  function onLine(part) {
    const from = chosen(".walk-from"), to = chosen(".walk-to");
    return from.map((start, k) => start + part * (to[k] - start));
  }

  if (along) {
    along.addEventListener("input", () => go(onLine(along.valueAsNumber)));
    for (const name of [".walk-from", ".walk-to"])
      one(name).addEventListener("change", () => {
        if (line) later([line]);
        go(onLine(along.valueAsNumber));
      });
    between?.addEventListener("click", (event) => {
      along.value = event.offsetX / between.clientWidth;
      go(onLine(along.valueAsNumber));
    });
  }

  all("button[data-start]").forEach((button) => {
    const row = Number(button.dataset.start), canvas = button.querySelector("canvas");
    button.addEventListener("click", () => go(data.latents[row]));
    if (canvas) {
      const size = channels * height * width, pixels = atob(data.pixels).slice(row * size, (row + 1) * size);
      draw(sized(canvas), Float32Array.from(pixels, (pixel) => pixel.charCodeAt(0) / 255));
    }
  });

  one(".walk-reset").addEventListener("click", () => go(data.centre));

  /* The plane of two latents */
  const extent = (k) => data.high[k] - data.low[k];

  function drawPlane() {
    const scale = devicePixelRatio || 1, side = plane.clientWidth * scale, context = plane.getContext("2d");
    if (plane.width !== Math.round(side)) plane.width = plane.height = Math.round(side);
    const style = getComputedStyle(root), size = plane.width;
    const x = (latent) => ((latent[0] - data.low[0]) / extent(0)) * size;
    const y = (latent) => (1 - (latent[1] - data.low[1]) / extent(1)) * size;
    context.clearRect(0, 0, size, size);
    data.plane.latents.forEach((latent, k) => {
      const colours = data.colours[data.plane.labels[k]] ?? Object.values(data.colours)[0];
      context.fillStyle = colours[dark.matches ? 1 : 0];
      context.beginPath();
      context.arc(x(latent), y(latent), 2.2 * scale, 0, 2 * Math.PI);
      context.fill();
    });
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = 1.5 * scale;
    context.beginPath();
    context.moveTo(x(z), 0);
    context.lineTo(x(z), size);
    context.moveTo(0, y(z));
    context.lineTo(size, y(z));
    context.stroke();
  }

  if (plane) {
    const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] };
    const clamped = (value, k) => Math.min(Math.max(value, data.low[k]), data.high[k]);
    plane.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "Home") go(data.centre);
      else if (event.key in STEPS) {
        const [k, sign] = STEPS[event.key];
        z[k] = clamped(z[k] + (sign * extent(k)) / (event.shiftKey ? 200 : 40), k);
        moved();
      } else return;
      event.preventDefault();
    });
    for (const kind of ["pointermove", "pointerdown"])
      plane.addEventListener(kind, (event) => {
        if (kind === "pointerdown") plane.setPointerCapture(event.pointerId);
        const right = event.offsetX / plane.clientWidth, up = 1 - event.offsetY / plane.clientHeight;
        go([right, up].map((part, k) => clamped(data.low[k] + part * extent(k), k)));
      });
    dark.addEventListener("change", () => drawPlane());
    addEventListener("resize", () => drawPlane());
  }

  if (image) sized(image);
  one(".walk-more")?.addEventListener("toggle", () => later(strips));
  latentmix.walk = { decoder, z, go, draw, inUnits };
  root.hidden = false;
  document.querySelector(".walk-without").hidden = true;
  moved();
  if (line) later([line]);
})();
