// The playground's page: pictures to paint on, controls, and the values under the cursor.
import { Adam, SIZE, load, mapsOf } from "./models.js";
import { GREY, SIGNED, VIRIDIS, drawPicture } from "./pictures.js";

const WINDOWS = { 9: 3, 15: 5, 21: 7, 27: 9 }; // and the inner window of the density
const OURS = {
  outlier: "OutlierRegionLoss()",
  outlier_no_share: "OutlierRegionLoss(share=None)",
};
const NUMBERS = ["max_noise_size", "threshold", "smooth", "strength", "share"]; // models' inputs
const STEPS = 400;

const find = (id) => document.getElementById(id);
const black = () => new Float32Array(SIZE * SIZE);
const painted = { prediction: black(), truth: black() }; // 0 or 1
const sides = { density: {}, ours: {} }; // each: logits, and the maps computed from them
const cursor = { row: 50, column: 50 };
let descent = null,
  presets = {},
  pending = false;

const MAPS = [
  {
    id: "prediction",
    title: "Prediction: paint here",
    paint: true,
    values: () => painted.prediction,
    stops: GREY,
    range: () => [0, 1],
  },
  {
    id: "truth",
    title: "Truth: paint here",
    paint: true,
    values: () => painted.truth,
    stops: GREY,
    range: () => [0, 1],
  },
  {
    id: "density-logits",
    title: "DensityLoss, as it descends",
    values: () => probabilities("density"),
    stops: GREY,
    range: () => [0, 1],
  },
  {
    id: "ours-logits",
    title: "Ours, as it descends",
    values: () => probabilities("ours"),
    stops: GREY,
    range: () => [0, 1],
  },
  {
    id: "density-flag",
    title: "DensityLoss: density D",
    values: () => sides.density.maps.flag,
    stops: VIRIDIS,
    range: unsigned,
  },
  {
    id: "ours-flag",
    title: "Ours: weight w",
    values: () => sides.ours.maps.flag,
    stops: VIRIDIS,
    range: () => [0, 1],
  },
  {
    id: "density-map",
    title: "DensityLoss: ",
    values: () => sides.density.maps[find("pg-map").value],
    stops: SIGNED,
    range: signed,
  },
  {
    id: "ours-map",
    title: "Ours: ",
    values: () => sides.ours.maps[find("pg-map").value],
    stops: SIGNED,
    range: signed,
  },
];
const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
function unsigned(values) {
  return [0, largest(values)];
}
function signed(values) {
  const limit = largest(values);
  return [-limit, limit];
}
function probabilities(side) {
  return sides[side].logits.map((z) => 1 / (1 + Math.exp(-z)));
}
const short = (value) => Number(value.toPrecision(4)).toString();

function draw() {
  for (const map of MAPS) {
    const values = map.values(),
      [low, high] = map.range(values);
    const context = map.canvas.getContext("2d");
    drawPicture(context, values, map.stops, low, high);
    context.strokeStyle = "#ff9800";
    context.strokeRect(cursor.column - 0.5, cursor.row - 0.5, 2, 2);
    const even = values.every((value) => value === 0);
    const range =
      map.stops === GREY ? "" : even ? ", 0 everywhere" : `, ${short(low)} to ${short(high)}`;
    const name = map.id.endsWith("-map") ? find("pg-map").selectedOptions[0].textContent : "";
    map.caption.textContent = map.title + name + range;
  }
  for (const side of ["density", "ours"]) {
    const left = sides[side].logits.reduce((sum, z, p) => sum + (z > 0 && !painted.truth[p]), 0);
    MAPS.find((map) => map.id === `${side}-logits`).caption.textContent += `: ${left} false px`;
  }
  showValues();
}

function showValues() {
  const p = cursor.row * SIZE + cursor.column;
  const rows = [
    ["logit", (side) => side.logits[p]],
    ["density D, weight w", (side) => side.maps.flag[p]],
    ["loss", (side) => side.maps.loss[p]],
    ["added to the cross-entropy", (side) => side.maps.term[p]],
    ["gradient of the loss", (side) => side.maps.loss_gradient[p]],
    ["gradient of what is added", (side) => side.maps.term_gradient[p]],
  ];
  const cell = (side, value) =>
    `<td data-side="${side}" data-value="${value}">${value.toPrecision(5)}</td>`;
  find("pg-values").innerHTML =
    `<caption>Pixel under the cursor: row ${cursor.row}, column ${cursor.column}, ` +
    `${painted.truth[p] ? "true" : "not true"}</caption>` +
    `<thead><tr><th scope="col"></th><th scope="col">DensityLoss</th><th scope="col">ours</th></tr></thead><tbody>` +
    rows
      .map(
        ([name, read]) =>
          `<tr data-name="${name}"><th scope="row">${name}</th>` +
          `${cell("density", read(sides.density))}${cell("ours", read(sides.ours))}</tr>`,
      )
      .join("") +
    "</tbody>";
}

function number(id) {
  const input = find(id);
  return "log" in input.dataset ? 10 ** Number(input.value) : Number(input.value);
}

async function run(side) {
  sides[side].maps = await mapsOf(
    find("pg-window").value,
    side === "density" ? "density" : find("pg-loss").value,
    sides[side].logits,
    painted.truth,
    Object.fromEntries(NUMBERS.map((id) => [id, number(id)])),
  );
}

// One update at a time; what is asked for meanwhile is done once, afterwards.
let working = null;
function update() {
  if (working) {
    pending = true;
    return working;
  }
  find("pg").setAttribute("aria-busy", "true");
  working = (async () => {
    do {
      pending = false;
      await run("density");
      await run("ours");
    } while (pending);
    working = null;
    draw();
    find("pg").setAttribute("aria-busy", String(descent !== null));
  })();
  return working;
}

function restart() {
  descent = null;
  find("pg-descend").textContent = "Descend";
  find("pg-steps").textContent = "0 steps";
  const sure = number("pg-confidence");
  for (const side of Object.values(sides)) {
    side.logits = painted.prediction.map((white) => (2 * white - 1) * sure);
  }
  return update();
}

async function descend() {
  if (descent) {
    descent = null;
    return;
  }
  await restart();
  const mine = (descent = { density: new Adam(), ours: new Adam() });
  find("pg-descend").textContent = "Stop";
  find("pg").setAttribute("aria-busy", "true");
  let step = 0;
  while (descent === mine && step < STEPS) {
    step += 1;
    for (const [name, optimizer] of Object.entries(mine)) {
      const gradient = sides[name].maps[find("pg-along").value];
      sides[name].logits = optimizer.step(sides[name].logits, gradient);
    }
    await run("density");
    await run("ours");
    if (descent !== mine) break;
    find("pg-steps").textContent = `${step} steps`;
    if (step % 4 === 0) {
      draw();
      await new Promise(requestAnimationFrame);
    }
  }
  if (descent === mine) descent = null;
  find("pg-descend").textContent = "Descend";
  find("pg").setAttribute("aria-busy", "false");
}

function paint(image, row, column) {
  const radius = Math.floor(number("pg-brush") / 2);
  const white = Number(document.querySelector("[name=pg-colour]:checked").value);
  for (let i = Math.max(row - radius, 0); i <= Math.min(row + radius, SIZE - 1); i += 1) {
    for (let j = Math.max(column - radius, 0); j <= Math.min(column + radius, SIZE - 1); j += 1) {
      painted[image][i * SIZE + j] = white;
    }
  }
  restart();
}

function listen(map) {
  const { canvas } = map;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (offset, length) =>
      Math.min(Math.max(Math.floor((offset / length) * SIZE), 0), SIZE - 1);
    cursor.row = at(event.clientY - box.top, box.height);
    cursor.column = at(event.clientX - box.left, box.width);
  };
  const move = (event) => {
    place(event);
    if (map.paint && event.buttons === 1) paint(map.id, cursor.row, cursor.column);
    else if (!working && !descent) draw();
  };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerdown", (event) => {
    if (map.paint) canvas.setPointerCapture(event.pointerId);
    move(event);
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (step) {
      cursor.row = Math.min(Math.max(cursor.row + step[0], 0), SIZE - 1);
      cursor.column = Math.min(Math.max(cursor.column + step[1], 0), SIZE - 1);
      if (!working && !descent) draw();
    } else if (event.key === " " && map.paint) {
      paint(map.id, cursor.row, cursor.column);
    } else return;
    event.preventDefault();
  });
}

function defaults() {
  const inner = WINDOWS[find("pg-window").value];
  const values = {
    max_noise_size: inner ** 2,
    threshold: inner ** 2 - Math.ceil(inner / 2) ** 2,
    share: 0.1,
    smooth: 0, // of powers of ten
    strength: 3,
  };
  for (const [id, value] of Object.entries(values)) find(id).value = value;
  showNumbers();
}

function showNumbers() {
  for (const input of document.querySelectorAll("#pg input[type=range]")) {
    input.parentElement.querySelector("output").textContent = short(number(input.id));
  }
}

function choose(name) {
  const pair = presets[name] ?? [
    Array.from({ length: SIZE * SIZE }, (_, p) => p).filter(
      () => name === "random noise" && Math.random() < 0.02,
    ),
    [],
  ];
  for (const [image, white] of [
    ["prediction", pair[0]],
    ["truth", pair[1]],
  ]) {
    painted[image].fill(0);
    for (const p of white) painted[image][p] = 1;
  }
  return restart();
}

function build() {
  for (const map of MAPS) {
    const figure = document.createElement("figure");
    map.canvas = Object.assign(document.createElement("canvas"), {
      width: SIZE,
      height: SIZE,
      tabIndex: 0,
      id: `pg-${map.id}`,
    });
    map.canvas.setAttribute("role", map.paint ? "application" : "img");
    map.canvas.setAttribute(
      "aria-label",
      `${map.title.replace(/: $/, ": map")}, ${SIZE} by ${SIZE} pixels`,
    );
    map.canvas.classList.toggle("pg-paint", Boolean(map.paint));
    map.caption = document.createElement("figcaption");
    figure.className = map.paint ? "pg-first" : `pg-${map.id.split("-")[0]}`;
    figure.append(map.canvas, map.caption);
    if (map.id === "density-map") find("pg-maps").append(find("pg-legend"));
    find("pg-maps").append(figure);
    listen(map);
  }
  for (const name of ["figure 9", "lesion", "random noise", "clear"]) {
    const button = Object.assign(document.createElement("button"), {
      textContent: name,
      type: "button",
    });
    button.addEventListener("click", () => choose(name));
    find("pg-presets").append(button);
  }
  for (const window of Object.keys(WINDOWS)) {
    const chosen = window === "21";
    find("pg-window").add(new Option(`${window} × ${window}`, window, chosen, chosen));
  }
  for (const [name, label] of Object.entries(OURS)) find("pg-loss").add(new Option(label, name));
  find("pg-window").addEventListener("change", () => {
    defaults();
    restart();
  });
  find("pg-loss").addEventListener("change", restart);
  find("pg-defaults").addEventListener("click", () => {
    defaults();
    restart();
  });
  for (const id of [...NUMBERS, "pg-confidence"]) {
    find(id).addEventListener("input", () => {
      showNumbers();
      restart();
    });
  }
  find("pg-brush").addEventListener("input", showNumbers);
  find("pg-map").addEventListener("change", draw);
  find("pg-descend").addEventListener("click", descend);
  find("pg-back").addEventListener("click", restart);
  defaults();
}

async function start() {
  build();
  presets = await load();
  await choose("figure 9");
  find("pg-status").textContent = "Ready.";
}

if (find("pg")) {
  start().catch((error) => {
    find("pg-status").textContent = `The playground could not start: ${error.message}`;
    throw error;
  });
}
