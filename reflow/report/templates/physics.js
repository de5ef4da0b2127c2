(() => {
  "use strict";
  const root = document.currentScript.closest(".physics");
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const [button, slider, told] = ["button", "input", "output"].map((name) => root.querySelector(name));
  const last = data.times.length - 1;
  const HALF = 600, LENGTH = 6000, PAUSE = 1200; // half a picture's side; milliseconds of a run, of a still
  const HEAD = 0.28, TALLEST = 36, SHORTEST = 6, FULL = 127; // as in planar.py
  const fluids = [...root.querySelectorAll("[data-fluid]")].map((panel) => {
    const flow = data.flows[Number(panel.dataset.fluid)];
    const layers = [flow.density, flow.histogram].map(({ side, shades }) => ({ side, shades: bytes(shades) }));
    return { flow, layers, canvases: panel.querySelectorAll("canvas"), caption: panel.querySelector("figcaption") };
  });
  const velocities = data.flows.map((flow) => bytes(flow.velocities));
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let moment = data.first, request = 0, spoken = -1, ramp = [];

  const mix = (a, b, share) => a + (b - a) * share;

  // A colour as the browser understands it, whatever the notation.
  function colour(name) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.fillStyle = getComputedStyle(root).getPropertyValue(name).trim();
    pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data;
  }

  // From the card by way of the accent to the ink.
  function paint() {
    const [card, accent, ink] = ["card", "accent", "ink"].map((name) => colour(`--physics-${name}`));
    ramp = Array.from({ length: 256 }, (_, level) => [0, 1, 2].map((part) =>
      level < 180 ? mix(card[part], accent[part], level / 180) : mix(accent[part], ink[part], (level - 180) / 100)));
    draw();
  }

  function drawFluid(canvas, { side, shades }, frame, share, half) {
    const image = new ImageData(side, side), size = side * side;
    for (let cell = 0; cell < size; cell++) {
      const next = frame < last ? shades[(frame + 1) * size + cell] : 0;
      const tint = ramp[Math.round(mix(shades[frame * size + cell], next, share))];
      image.data.set([tint[0], tint[1], tint[2], 255], 4 * cell);
    }
    const sheet = document.createElement("canvas");
    sheet.width = sheet.height = side;
    sheet.getContext("2d").putImageData(image, 0, 0);
    const pen = canvas.getContext("2d"), scale = canvas.width / (2 * HALF);
    pen.fillStyle = `rgb(${ramp[0].join(" ")})`;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = side > 40; // the bins of a histogram are seen
    pen.drawImage(sheet, (HALF - half) * scale, (HALF - half) * scale, 2 * half * scale, 2 * half * scale);
  }

  function drawFlow(panel, number, frame, share) {
    const { states } = data.flows[number], after = Math.min(frame + 1, last);
    panel.querySelector("[data-part=dots]").setAttribute("d", states[frame].map((point, path) =>
      dot(point, states[after][path], share)).join(""));
    const { origins, unit } = data.arrows, size = 2 * origins.length;
    panel.querySelector("[data-part=arrows]").setAttribute("d", origins.map(([x, y], cell) => {
      const [dx, dy] = [0, 1].map((part) => {
        const at = (step) => velocities[number][step * size + 2 * cell + part] - FULL - 1;
        return unit * mix(at(frame), at(after), share);
      });
      return arrow(x, y, dx, dy);
    }).join(""));
  }

  const dot = (from, to, share) => `M${mix(from[0], to[0], share).toFixed(1)} ${mix(from[1], to[1], share).toFixed(1)}h0`;

  function arrow(x, y, dx, dy) {
    const length = Math.hypot(dx, dy), head = Math.min(HEAD, TALLEST / length);
    if (length < SHORTEST) return "";
    const tip = [x + dx, y + dy], back = [tip[0] - head * dx, tip[1] - head * dy], side = [head / 2 * dy, -head / 2 * dx];
    const barbs = [[back[0] + side[0], back[1] + side[1]], tip, [back[0] - side[0], back[1] - side[1]]];
    return `M${x} ${y}L${tip.map(Math.round).join(" ")}M${barbs.map((corner) => corner.map(Math.round).join(" ")).join("L")}`;
  }

  function drawCrossing(frame, share) {
    const { begin, end, through } = data.crossing, after = Math.min(frame + 1, last);
    const t = mix(data.times[frame], data.times[after], share);
    root.querySelector("[data-part=lines]").setAttribute("d", begin.map((from, line) => dot(from, end[line], t)).join(""));
    root.querySelector("[data-part=through]").setAttribute("d", dot(through[frame], through[after], share));
  }

  function tell() {
    const now = Math.round(moment);
    if (now === spoken) return;
    spoken = now;
    const t = `t = ${data.times[now].toFixed(2)}`;
    slider.value = now;
    slider.setAttribute("aria-valuetext", t);
    told.textContent = `${t}: total mass ${data.flows.map(({ name, masses }) => `of ${name} ${masses[now].toFixed(4)}`).join(", ")}`;
    for (const { flow, caption } of fluids) {
      const mass = flow.masses[now], off = `${mass < 1 ? "−" : "+"} ${Math.abs(mass - 1).toFixed(5)}`;
      caption.textContent = `Total mass 1 ${off}; they differ by ${flow.differences[now].toFixed(3)}, expected ${flow.expected[now].toFixed(3)}`;
    }
  }

  function draw() {
    const frame = Math.floor(moment), share = moment - frame;
    for (const { flow, layers, canvases } of fluids) {
      const half = mix(flow.halves[frame], flow.halves[Math.min(frame + 1, last)], share);
      canvases.forEach((canvas, number) => drawFluid(canvas, layers[number], frame, share, half));
    }
    root.querySelectorAll("[data-flow]").forEach((panel) => drawFlow(panel, Number(panel.dataset.flow), frame, share));
    drawCrossing(frame, share);
    tell();
  }

  function stop() {
    cancelAnimationFrame(request);
    clearTimeout(request);
    request = 0;
    button.textContent = "Play";
    told.setAttribute("aria-live", "polite");
    moment = Math.round(moment);
    draw();
  }

  // Reduced motion: quarters of the way, one after the other, instead of a film.
  function stepOn() {
    moment = Math.min(last, moment + last / 4);
    draw();
    if (moment < last) request = setTimeout(stepOn, PAUSE);
    else stop();
  }

  function play() {
    if (moment >= last) moment = 0;
    button.textContent = "Pause";
    told.setAttribute("aria-live", "off"); // a film is not read out; its end is
    if (calm.matches) {
      draw();
      request = setTimeout(stepOn, PAUSE);
      return;
    }
    const began = performance.now() - moment / last * LENGTH;
    const film = (now) => {
      moment = Math.min(last, Math.max(0, (now - began) / LENGTH * last));
      if (moment >= last) return stop();
      draw();
      request = requestAnimationFrame(film);
    };
    request = requestAnimationFrame(film);
  }

  button.addEventListener("click", () => (request ? stop() : play()));
  slider.addEventListener("input", () => {
    const wanted = Number(slider.value);
    if (request) stop();
    moment = wanted;
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  new MutationObserver(paint).observe(document.documentElement, { attributes: true, attributeFilter: ["class", "data-theme", "style"] });
  root.classList.add("physics-live");
  paint();
})();
