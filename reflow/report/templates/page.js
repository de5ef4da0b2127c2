"use strict";
document.documentElement.classList.add("scripted");

// A viewer shows one picture of the gallery: the model is chosen by radio, the evaluations by slider.
function startViewer(viewer, shelves) {
  const picture = viewer.querySelector("img");
  const slider = viewer.querySelector("input[type=range]");
  const stops = viewer.querySelector(".stops");
  const output = viewer.querySelector("output");
  let wanted = Number(viewer.dataset.nfe);

  const chosen = () => shelves[Number(viewer.querySelector("input[type=radio]:checked").value)];

  function show() {
    const found = chosen()[Number(slider.value)];
    picture.src = found.src;
    picture.alt = found.alt;
    slider.setAttribute("aria-valuetext", found.dataset.words);
    const name = document.createElement("b");
    name.textContent = `${found.dataset.model}, ${found.dataset.words}`;
    output.replaceChildren(name, document.createElement("br"), found.dataset.note);
  }

  function choose() {
    const shelf = chosen();
    const distances = shelf.map((image) => Math.abs(Math.log(image.dataset.nfe / wanted)));
    slider.max = shelf.length - 1;
    slider.value = distances.indexOf(Math.min(...distances));
    slider.disabled = shelf.length < 2;
    stops.replaceChildren(...shelf.map((image) => {
      const stop = document.createElement("span");
      stop.textContent = image.dataset.nfe;
      return stop;
    }));
    show();
  }

  slider.addEventListener("input", () => {
    wanted = Number(chosen()[Number(slider.value)].dataset.nfe);
    show();
  });
  viewer.addEventListener("change", (event) => {
    if (event.target.type === "radio") choose();
  });
  choose();
}

for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const shelves = [...gallery.querySelectorAll("[data-shelf]")].map((shelf) => [...shelf.querySelectorAll("img")]);
  for (const viewer of gallery.querySelectorAll("[data-viewer]")) startViewer(viewer, shelves);
  const real = gallery.querySelector("[data-real]");
  if (real) real.src = gallery.querySelector("[data-held-out]").src;
  gallery.querySelector("details").open = false;
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    const said = button.parentElement.querySelector("[role=status]");
    try {
      await navigator.clipboard.writeText(source.textContent);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(source);
      said.textContent = "Selected; press Ctrl+C to copy.";
    }
  });
}

// What is folded on the screen is printed, too.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of folded) details.open = false;
});
