const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const VIEWS = ["photo", "truth", "prediction", "errors"];
const pretty = (name) => name.replaceAll("_", " ");
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Turn text into nodes; text in backticks is set as code. */
const prose = (text) => text.split("`").map((part, i) => (i % 2 ? make("code", { text: part }) : part));

/* ---- pictures: a photo and its masks, drawn over each other ---- */

const images = new Map();

function load(uri) {
  if (!images.has(uri)) {
    const image = new Image();
    image.src = uri;
    images.set(uri, image.decode().then(() => image));
  }
  return images.get(uri);
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

/** Return a canvas with an image or a colour, transparent outside one mask and, if given, inside another. */
function layer(fill, size, inside, outside) {
  const context = Object.assign(document.createElement("canvas"), { width: size, height: size }).getContext("2d");
  if (typeof fill === "string") {
    context.fillStyle = fill;
    context.fillRect(0, 0, size, size);
  } else context.drawImage(fill, 0, 0);
  context.globalCompositeOperation = "destination-in";
  context.drawImage(inside, 0, 0);
  context.globalCompositeOperation = "destination-out";
  if (outside) context.drawImage(outside, 0, 0);
  return context.canvas;
}

function paint(canvas, photo, truth, predicted, view) {
  const size = (canvas.width = canvas.height = photo.naturalWidth);
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0);
  if (view === "photo") return;
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#888";
  context.fillRect(0, 0, size, size);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 0.82;
  context.fillStyle = colour("paper");
  context.fillRect(0, 0, size, size);
  context.globalAlpha = 1;
  context.drawImage(layer(photo, size, view === "truth" ? truth : predicted), 0, 0);
  if (view !== "errors") return;
  context.globalAlpha = 0.6;
  context.drawImage(layer(colour("blue"), size, truth, predicted), 0, 0);
  context.drawImage(layer(colour("vermilion"), size, predicted, truth), 0, 0);
}

/** Show a photo on a canvas; if there are several requests, the last one counts. */
async function show(canvas, { name, image, truth, predicted }, view) {
  const wanted = (canvas.wanted = Symbol("drawing"));
  canvas.again = () => show(canvas, { name, image, truth, predicted }, view);
  const loaded = await Promise.all([image, truth, predicted].map(load));
  if (canvas.wanted !== wanted) return;
  paint(canvas, ...loaded, view);
  canvas.setAttribute("aria-label", `${name}: ${view}`);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  document.querySelectorAll("canvas").forEach((canvas) => canvas.again?.()));

/** Fill a fieldset with a radio button for each view, and return a function that sets the view. */
function chooseView(fieldset, view, changed) {
  const buttons = VIEWS.map((name) => make("input", { type: "radio", name: fieldset.id, value: name }));
  buttons.forEach((button) => {
    fieldset.append(make("label", {}, button, button.value));
    button.addEventListener("change", () => changed(button.value));
  });
  const set = (name) => (buttons[VIEWS.indexOf(name)].checked = true);
  set(view);
  return (name) => {
    set(name);
    changed(name);
  };
}

/* ---- header ---- */

function showHeader() {
  const [model] = data.answers;
  const name = data.model ?? "A model";
  document.title = `${name}: run ${data.run}`;
  $("model").textContent = name;
  $("run").textContent = data.run;
  const { dice, epoch, epochs } = data.validation;
  const both = Object.keys(data.output_curves).length > 0;
  const headlines = [
    ["test Dice", rounded(model.dice), `${rounded(model.low)} to ${rounded(model.high)}, 95 % interval; ${data.photos} photos; ${data.title}`],
    ["validation Dice", rounded(dice), `epoch ${epoch} of ${epochs}, the best${both ? " by the mean of both masks" : ""}, whose weights were kept`],
  ];
  for (const [term, value, more] of headlines)
    $("headlines").append(make("div", {}, make("dt", { text: term }), make("dd", { text: value }, make("small", { text: more }))));
  intervals($("answers"), data.answers);
  for (const place of document.querySelectorAll(".title")) place.textContent = data.title;
}

/* ---- scores ---- */

function showScores() {
  const masks = data.answers.some(({ mask }) => mask);
  const head = (scope, text, more = {}) => make("th", { scope, text, ...more });
  const columns = ["Dice", "95 % interval", "IoU", "boundary F"];
  const cells = ({ mask, dice, low, high, iou, boundary_f }) => {
    const texts = [rounded(dice), dice === null ? "–" : `${rounded(low)}–${rounded(high)}`];
    texts.push(...[iou, boundary_f].map((value) => (value === null ? "–" : rounded(value))));
    const numbers = texts.map((text, i) => make("td", { className: "number", text, "data-column": columns[i] }));
    return [...(masks ? [make("td", { className: "mask", text: mask })] : []), ...numbers];
  };
  const table = $("score-table");
  table.append(make("thead", {}, make("tr", {}, make("td"), ...(masks ? [head("col", "answered by")] : []),
    ...columns.map((name) => head("col", name, { className: "number" })))));
  for (const { title, rows } of data.scores)
    if (rows.length)
      table.append(make("tbody", {},
        make("tr", { className: "group" }, head("rowgroup", title, { colspan: columns.length + 1 + masks })),
        ...rows.map((row) => make("tr", { className: row.main ? "main" : "" }, head("row", row.name), ...cells(row)))));
  const clean = data.scores[1].rows.length > 1 ? " Cleaning removes small islands from a mask and fills its small holes." : "";
  $("scores-text").textContent =
    `Means over ${data.photos} test photos. The headline is in bold, and the rest of the page is about it: ${data.title}.${clean}`;
}

/* ---- curves ---- */

function showCurves() {
  const { epoch } = data.history;
  const best = epoch.indexOf(data.validation.epoch);
  const x = { label: "epoch", values: epoch, whole: true, text: (i) => `epoch ${epoch[i]}${i === best ? ", the best" : ""}` };
  const outputs = Object.entries(data.output_curves);
  for (const [quantity, title, label] of [["loss", "Loss", "loss"], ["dice", "Dice", "Dice, mean over photos"]]) {
    const beside = quantity === "dice" ? outputs : [];
    chart($(`${quantity}-chart`), {
      title, x, resting: best, y: { label },
      series: [
        { name: "training, augmented", colour: "orange", values: data.history[`train_${quantity}`] },
        ...beside.map(([name, values], i) => ({ name: `validation, ${name}`, colour: `blue ${["dashed", "dotted"][i]}`, values })),
        { name: beside.length ? "validation, mean of both" : "validation", colour: "blue", values: data.history[`val_${quantity}`], mark: best },
      ],
    });
  }
}

function showProbabilities() {
  const { threshold, ...scores } = data.thresholds;
  const resting = threshold.reduce((near, value, i) =>
    Math.abs(value - data.threshold) < Math.abs(threshold[near] - data.threshold) ? i : near, 0);
  const x = { label: "threshold: pet has this probability or more", values: threshold, first: 0, last: 1, text: (i) => `at ${threshold[i].toFixed(2)}` };
  const marks = [{ x: data.threshold, name: `in use: ${data.threshold}`, y: 190 }];
  const setting = Object.fromEntries(data.params)["infer.threshold"];
  const who = setting === undefined ? "in use" : setting === "auto" ? "that validation chose" : "that params.yaml sets";
  const others = data.other_thresholds.map(([name, value]) => `, that of ${name} ${value}`).join("");
  $("threshold-text").textContent =
    `This section is about ${data.title}. The threshold ${who} is ${data.threshold}${others}. The curves of the test photos were drawn afterwards; nothing was chosen by them.`;
  chart($("threshold-chart"), {
    title: "Dice at each threshold", x, marks, resting, y: { label: "Dice, mean over photos" },
    series: [
      { name: "validation", colour: "blue", values: scores.val_dice_per_image },
      { name: "test", colour: "vermilion", values: scores.test_dice_per_image },
    ],
  });
  chart($("trade-chart"), {
    title: "Precision and recall at each threshold", x, marks, resting, y: { label: "share of pixels, test" },
    series: [
      { name: "precision: share of predicted pet that is pet", colour: "green", values: scores.test_precision },
      { name: "recall: share of pet that is found", colour: "orange", values: scores.test_recall },
    ],
  });
  const { low, high, mean_probability, pet_share, share, error } = data.calibration;
  chart($("calibration-chart"), {
    title: `Calibration: ${rounded(error)} off on average`, dots: true, diagonal: true,
    resting: Math.max(0, pet_share.findLastIndex((value) => value !== null)),
    x: { label: "predicted probability of pet", values: mean_probability, first: 0, last: 1, text: (i) => `${low[i].toFixed(2)} to ${high[i].toFixed(2)}` },
    y: { label: "share that is pet", low: 0, high: 1 },
    series: [{ name: "of these pixels are pet:", colour: "blue", values: pet_share }],
    extra: (i) => `${percent(share[i])} of all pixels; the dotted line is perfect calibration`,
  });
  showConfusion(data.confusion);
}

function showConfusion({ tp, fn, fp, tn }) {
  const all = tp + fn + fp + tn;
  const cell = (name, count, row, hue) => {
    const td = make("td", { className: hue },
      make("b", { text: percent(count / all) }), `${name}: ${percent(count / (row || 1))} of this row`);
    td.style.setProperty("--strength", `${8 + 30 * (count / (row || 1))}%`);
    return td;
  };
  const head = (scope, text) => make("th", { scope, text });
  $("confusion").append(
    make("tr", {}, make("td", { className: "corner" }), head("col", "called pet"), head("col", "called background")),
    make("tr", {}, head("row", "is pet"), cell("found", tp, tp + fn, "blue"), cell("missed", fn, tp + fn, "vermilion")),
    make("tr", {}, head("row", "is background"), cell("wrongly called pet", fp, fp + tn, "vermilion"), cell("rightly left out", tn, fp + tn, "blue")));
}

function showHistogram() {
  const { low, high, photos, mean, median } = data.histogram;
  chart($("histogram"), {
    title: "Dice of the test photos", bars: true, resting: photos.indexOf(Math.max(...photos)),
    x: { label: "Dice of a photo", low, high, values: low, text: (i) => `${low[i].toFixed(2)} to ${high[i].toFixed(2)}` },
    y: { label: "photos", low: 0 },
    series: [{ name: "photos", colour: "blue", values: photos, digits: 0 }],
    extra: () => `mean ${rounded(mean)}, median ${rounded(median)}`,
    marks: [{ x: data.answers.at(-1).dice, name: "every pixel is pet" }, { x: data.poor, name: `poor: below ${data.poor}`, y: 32 }],
  });
}

/* ---- epochs ---- */

function showEvolution() {
  const { epochs, photos } = data.evolution;
  const [slider, best] = [$("epoch"), epochs.indexOf(data.validation.epoch)];
  let view = "prediction";
  const cells = photos.map((photo) => {
    const [canvas, dice] = [make("canvas", { role: "img" }), make("span", { className: "dice" })];
    $("evolution-photos").append(make("li", {}, canvas, make("span", { className: "name", text: pretty(photo.name) }), dice));
    return { photo, canvas, dice };
  });
  function redraw() {
    const at = +slider.value;
    const known = photos.map((photo) => photo.dice[at]).filter((dice) => dice !== null);
    const mean = known.length ? known.reduce((sum, dice) => sum + dice, 0) / known.length : null;
    const text = `epoch ${epochs[at]}${at === best ? ", the best" : ""}: mean Dice of these photos ${rounded(mean)}`;
    $("epoch-text").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    for (const { photo, canvas, dice } of cells) {
      dice.textContent = `Dice ${rounded(photo.dice[at])}`;
      show(canvas, { ...photo, predicted: photo.predicted[at] }, view);
    }
  }
  slider.max = epochs.length - 1;
  slider.value = best;
  slider.addEventListener("input", redraw);
  $("best-epoch").textContent = `Best epoch: ${data.validation.epoch}`;
  $("best-epoch").addEventListener("click", () => {
    slider.value = best;
    redraw();
  });
  chooseView($("evolution-views"), view, (chosen) => {
    view = chosen;
    redraw();
  });
  redraw();
}

/* ---- gallery ---- */

const byName = new Intl.Collator("en", { numeric: true }).compare;
/** Sort by Dice; photos without a Dice come last in both directions. */
const byDice = (sign) => (a, b) => (a.dice === null) - (b.dice === null) || sign * (a.dice - b.dice) || byName(a.name, b.name);
const ORDERS = { worst: byDice(1), best: byDice(-1), name: (a, b) => byName(a.name, b.name) };

function showGallery() {
  let view = "errors";
  let shown = [];
  const large = largeView(() => shown);
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.near = isIntersecting;
      if (isIntersecting) target.refresh();
    }
  }, { rootMargin: "300px" });

  const items = new Map(data.gallery.map((photo) => {
    const canvas = make("canvas", { role: "img", "aria-label": photo.name });
    const button = make("button", { type: "button", "aria-haspopup": "dialog" }, canvas,
      make("span", { className: "name", text: pretty(photo.name) }),
      make("span", { className: "dice", text: rounded(photo.dice) }));
    button.addEventListener("click", () => large.open(photo, view));
    canvas.refresh = () => canvas.shows !== view && show(canvas, photo, (canvas.shows = view));
    near.observe(canvas);
    return [photo, make("li", {}, button)];
  }));

  function arrange() {
    const breed = $("breed").value;
    shown = data.gallery.filter((photo) => !breed || photo.breed === breed).sort(ORDERS[$("sort").value]);
    $("photos").replaceChildren(...shown.map((photo) => items.get(photo)));
    $("gallery-count").textContent = `${shown.length} of ${data.gallery.length} photos`;
  }

  const breeds = [...new Set(data.gallery.map((photo) => photo.breed))].sort(byName);
  for (const breed of breeds) $("breed").append(make("option", { value: breed, text: pretty(breed) }));
  const part = data.gallery.length < data.photos
    ? `${data.gallery.length} of the ${data.photos} test photos, chosen evenly by their rank in Dice, so that this page stays small.`
    : `All ${data.photos} test photos.`;
  const border = data.boundary === "ignore" ? " Pixels of the border count in no score, although they are coloured here." : "";
  $("gallery-text").textContent = `${part} Shown are ${data.title}. The Dice is below each photo; click a photo to enlarge it.${border}`;
  $("sort").addEventListener("change", arrange);
  $("breed").addEventListener("change", arrange);
  const setView = chooseView($("gallery-views"), view, (chosen) => {
    view = chosen;
    document.querySelectorAll("#photos canvas").forEach((canvas) => canvas.near && canvas.refresh());
  });
  document.addEventListener("keydown", (event) => {
    const chosen = VIEWS["1234".indexOf(event.key)];
    if (!chosen || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    (large.isOpen() ? large.setView : setView)(chosen);
  });
  arrange();
}

/** The dialog that shows a photo large; the arrow keys go to the next and previous photo. */
function largeView(neighbours) {
  const dialog = $("large");
  let photo;
  let view = "errors";
  function redraw() {
    const [photos, at] = [neighbours(), neighbours().indexOf(photo)];
    $("large-title").textContent = photo.name;
    $("large-text").textContent =
      `${pretty(photo.breed)}; Dice ${rounded(photo.dice)}, IoU ${rounded(photo.iou)}; ${at + 1} of ${photos.length}`;
    $("previous").disabled = at === 0;
    $("next").disabled = at === photos.length - 1;
    show($("large-picture"), photo, view);
  }
  function go(step) {
    photo = neighbours()[neighbours().indexOf(photo) + step] ?? photo;
    redraw();
  }
  const setView = chooseView($("large-views"), view, (chosen) => {
    view = chosen;
    redraw();
  });
  $("previous").addEventListener("click", () => go(-1));
  $("next").addEventListener("click", () => go(1));
  $("close").addEventListener("click", () => dialog.close());
  $("large-picture").addEventListener("click", () => setView(VIEWS[(VIEWS.indexOf(view) + 1) % VIEWS.length]));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || !(event.key === "ArrowLeft" || event.key === "ArrowRight")) return;
    event.preventDefault();
    go(event.key === "ArrowLeft" ? -1 : 1);
  });
  return {
    isOpen: () => dialog.open,
    setView,
    open(chosen, as) {
      photo = chosen;
      dialog.showModal();
      setView(as);
    },
  };
}

/* ---- texts: notes, record, limits ---- */

function showWords() {
  for (const [heading, text] of data.notes)
    $("notes").append(make("div", {}, make("h3", { text: heading }), make("p", {}, ...prose(text))));
  $("unknown").hidden = data.facts.length > 0;
  for (const [term, text] of data.facts) $("facts").append(make("dt", { text: term }), make("dd", {}, ...prose(text)));
  $("ways-back").hidden = !data.ways_back.length;
  $("ways-back").textContent = data.ways_back.map(([command, why]) => `# ${why}\n${command}`).join("\n");
  $("params").parentElement.hidden = !data.params.length;
  for (const [name, value] of data.params)
    $("params").append(make("tr", {}, make("th", { scope: "row" }, make("code", { text: name })), make("td", {}, make("code", { text: value }))));
  for (const limit of data.limits) $("limits-list").append(make("li", { text: limit }));
}

showHeader();
showScores();
showCurves();
showEvolution();
showGallery();
showWords();
showHistogram();
intervals($("breed-table"), data.breeds.map((breed) => ({ ...breed, name: pretty(breed.name) })));
showProbabilities();
