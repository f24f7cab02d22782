// The page for people: drop two files, see both times and whether their outputs agree.

import {ARRAYS, breathe, calibrate, median, open, visit} from "./litert.js";

const ROUNDS = 30;
const WARMUP = 5;
const TOLERANCE = 1e-3;
const TINY = 1e-6;

const zones = [...document.querySelectorAll(".zone")];
const progress = document.querySelector("progress");
const results = document.querySelector("#results");
const files = [null, null];
let turn = 0;

zones.forEach((zone, i) => {
  const input = zone.querySelector("input");
  input.addEventListener("change", () => take(i, input.files));
  zone.addEventListener("dragover", () => zone.classList.add("over"));
  for (const end of ["dragleave", "drop"]) {
    zone.addEventListener(end, () => zone.classList.remove("over"));
  }
  zone.addEventListener("drop", (event) => take(i, event.dataTransfer.files));
});
// A file dropped beside a zone must not replace the page.
for (const kind of ["dragover", "drop"]) {
  document.addEventListener(kind, (event) => event.preventDefault());
}

/** Put what was dropped on zone i there, and a second file into the other zone. */
function take(i, dropped) {
  for (const [k, file] of [...dropped].slice(0, 2).entries()) {
    const place = (i + k) % 2;
    files[place] = file;
    zones[place].classList.add("filled");
    zones[place].querySelector("b").textContent = file.name;
    zones[place].querySelector("span").textContent = size(file.size);
  }
  if (files.every(Boolean)) compare(++turn);
}

async function compare(mine) {
  const [first, second] = files;
  const models = [];
  results.replaceChildren();
  progress.hidden = false;
  progress.removeAttribute("value");
  try {
    for (const file of [first, second]) models.push(await start(file, models[0]));
    const outputs = [];
    for (const [i, model] of models.entries()) {
      outputs.push(await blame(files[i], model.run()));
      await breathe();
    }
    const times = await measure(models, () => mine === turn);
    if (mine === turn) show([first, second], times, difference(...outputs));
  } catch (error) {
    if (mine === turn) results.replaceChildren(paragraph(error.message, "bad"));
  } finally {
    for (const model of models) model.close();
    if (mine === turn) progress.hidden = true;
  }
}

async function blame(file, promise) {
  try {
    return await promise;
  } catch (error) {
    throw new Error(`${file.name} does not run here: ${error.message}`);
  }
}

/** Load a file and give it a random input, the first file's if there is one. */
async function start(file, other) {
  const model = await blame(file, file.arrayBuffer().then((buffer) => open(new Uint8Array(buffer))));
  const kinds = (inputs) => JSON.stringify(inputs.map(({dtype, shape}) => [dtype, shape]));
  if (other && kinds(model.inputs) !== kinds(other.inputs)) {
    model.close();
    throw new Error(
      `The files take different inputs: ${kinds(other.inputs)} and ${kinds(model.inputs)}.`,
    );
  }
  model.values = other?.values ?? model.inputs.map(randomInput);
  const feeds = model.inputs.map(({name, shape}, i) => [name, {data: model.values[i], shape}]);
  model.set(Object.fromEntries(feeds));
  return model;
}

function randomInput({dtype, shape}) {
  const values = new ARRAYS[dtype](shape.reduce((a, b) => a * b, 1));
  const draw = {
    // Normal noise (Box and Muller), the whole range, or ids that are in every vocabulary.
    float32: () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()),
    uint8: () => Math.floor(256 * Math.random()),
    int32: () => Math.floor(2 * Math.random()),
  }[dtype];
  return values.map(draw);
}

/** Mean milliseconds of each visit, for both models; visits take turns, in random order. */
async function measure(models, wanted) {
  const runs = [];
  for (const model of models) {
    runs.push(await calibrate(model, WARMUP));
    await breathe();
  }
  const times = [[], []];
  for (let round = 0; round < ROUNDS && wanted(); round++) {
    for (const i of Math.random() < 0.5 ? [0, 1] : [1, 0]) {
      times[i].push(await visit(models[i], runs[i]));
      await breathe();
    }
    progress.value = (round + 1) / ROUNDS;
  }
  return times;
}

/** The largest difference of an output, relative to the first file's largest magnitude there. */
function difference(a, b) {
  const [first, second] = [Object.values(a), Object.values(b)];
  if (first.length !== second.length) return Infinity;
  let worst = 0;
  first.forEach((values, k) => {
    if (values.length !== second[k].length) worst = Infinity;
    let scale = TINY;
    let largest = 0;
    values.forEach((value, i) => {
      scale = Math.max(scale, Math.abs(value));
      const gap = Math.abs(value - second[k][i]);
      largest = Math.max(largest, Number.isNaN(gap) ? Infinity : gap);
    });
    worst = Math.max(worst, largest / scale);
  });
  return worst;
}

function show(both, times, relative) {
  const medians = times.map(median);
  const rows = both.map((file, i) => {
    const row = element("div", "row");
    const name = element("div", "name");
    name.append(
      element("span", "", `${file.name} (${size(file.size)})`),
      element("span", "figure", `${medians[i].toPrecision(3)} ms`),
    );
    const bar = element("div", "bar");
    bar.style.width = `${(100 * medians[i]) / Math.max(...medians)}%`;
    row.append(name, bar);
    return row;
  });
  const ratio = median(times[0].map((time, k) => time / times[1][k]));
  const speed = element("p");
  speed.append(
    element("strong", "speed", ratio >= 1 ? `${ratio.toFixed(2)}x faster` : `${(1 / ratio).toFixed(2)}x slower`),
    ` is the second file; the median of ${ROUNDS} rounds, in which both took turns.`,
  );
  const verdict =
    relative <= TOLERANCE
      ? paragraph(`The outputs agree: they differ by ${relative.toExponential(1)} at most (relative).`)
      : paragraph(
          `The outputs differ by ${relative.toExponential(1)} (relative; up to ${TOLERANCE} counts as ` +
            "agreement). Of files with other weights that is to be expected; of the same weights " +
            "in two encodings it is not.",
        );
  results.replaceChildren(...rows, speed, verdict);
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function paragraph(text, className = "") {
  return element("p", className, text);
}

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toPrecision(3)} kB` : `${(bytes / 1e6).toPrecision(3)} MB`;
}
