// The server sends the probability that each pixel is pet. The page itself cuts, cleans and draws masks of it, so
// that a change of the settings shows at once.

import { alphaOf, cleaned, cut } from "./masks.js";

const VIEWS = ["photo", "mask", "overlay", "cutout"];
const MOST_CARDS = 40;
const OUTLINE = [213, 94, 0]; // vermilion, as in petseg predict
const OUTLINE_PX = 400; // the outline is one pixel wider for each of these on the longer side, as in petseg predict
const EDGES = {
  tight: "Without the strip of unsure pixels around the pet; a cut-out fades over it.",
  whole: "With the strip of unsure pixels around the pet.",
};
const ONE_EDGE = "This model has one output, and so one edge.";

const $ = (id) => document.getElementById(id);
const state = { models: [], view: "overlay", edge: "tight", clean: true, thresholds: {} };
const cards = new Set();
const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    for (const card of cards) if (card.element === target) card.see(isIntersecting);
  }
});
let queue; // photos are sent one after the other, because the server works on one at a time

/** Send a request to the server, and return the answer. If it is refused, throw the line that says why. */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; has petseg demo ended?");
  }
  if (!answer.ok) {
    const refusal = await answer.json().catch(() => ({}));
    throw new Error(refusal.error ?? `The server answers with ${answer.status}.`);
  }
  return answer;
}

const post = (path, values, file) => ask(`${path}?${new URLSearchParams(values)}`, { method: "POST", body: file });

/** Decode a picture that the server sent, and return its pixels. */
async function pixelsOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

const greyOf = ({ data }) => Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]);

/** A photo on the page: its file, the server's answer for it, and its element. */
class Card {
  constructor(file) {
    this.file = file;
    this.element = $("card").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.element.querySelector(selector);
    this.part("h2").textContent = file.name;
    this.part("h2").title = file.name;
    this.part(".remove").addEventListener("click", () => this.remove());
    this.part(".picture").addEventListener("click", () => show(VIEWS[(VIEWS.indexOf(state.view) + 1) % VIEWS.length]));
    for (const button of this.element.querySelectorAll("footer button")) {
      button.addEventListener("click", () => this.download(button));
    }
    this.wait();
    sight.observe(this.element);
  }

  see(inSight) {
    this.inSight = inSight;
    if (inSight && this.stale) this.draw();
  }

  wait() {
    this.found = null;
    this.element.className = "waiting";
    this.element.ariaBusy = "true";
    this.part(".facts").textContent = "Waiting …";
    this.complain("");
    this.enable(false);
  }

  async send() {
    const model = $("model").value;
    const { found, photo, probability } = await this.answer(model);
    if (model !== $("model").value) return; // another model was chosen meanwhile, and this photo is sent again
    Object.assign(this, { found, photo, probability });
    this.outline = 1 + Math.floor(Math.max(photo.width, photo.height) / OUTLINE_PX);
    this.element.className = "";
    this.element.ariaBusy = "false";
    this.enable(true);
    this.draw();
  }

  async answer(model) {
    // Checked first, because fetch fails for a file that is gone, or a folder, as if the server did not answer.
    await this.file.slice(0, 1).arrayBuffer().catch(() => {
      throw new Error("It can't be read: the file is gone, or it is a folder; drop the photos in the folder instead.");
    });
    const found = await (await post("api/probability", { model }, this.file)).json();
    const [photo, whole, tight] = await Promise.all(
      [found.photo, found.probability.whole, found.probability.tight].map(pixelsOf),
    );
    return { found, photo, probability: { whole: greyOf(whole), tight: greyOf(tight) } };
  }

  fail(error) {
    this.element.className = "failed";
    this.element.ariaBusy = "false";
    this.complain(error.message);
  }

  complain(text) {
    this.part(".problem").textContent = text;
    this.part(".problem").hidden = !text;
  }

  enable(can) {
    for (const button of this.element.querySelectorAll("footer button")) button.disabled = !can;
  }

  /** Draw the photo again; if it is out of sight, only once it comes into sight. */
  draw() {
    this.stale = !this.inSight;
    if (!this.found || this.stale) return;
    const canvas = this.part("canvas");
    const { width, height } = this.photo;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.classList.toggle("wide", width / height > 4 / 3); // wider than its frame
    const { data, pets } = drawn(this);
    canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
    this.part(".picture").ariaLabel = `${this.file.name}: ${state.view}; show the next view`;
    const { width: own, height: high, seconds } = this.found;
    const coverage = ((pets / (width * height)) * 100).toFixed(1);
    this.part(".facts").textContent = `${coverage} % is pet · ${own} × ${high} px · ${Math.round(seconds * 1000)} ms`;
    this.complain(pets ? "" : `Empty mask: ${this.whyEmpty()}.`);
  }

  whyEmpty() {
    const { limit, highest, why } = this.found.empty[state.edge];
    const threshold = state.thresholds[state.edge];
    if (limit !== state.edge) return why; // the tight mask lies within the whole one, which is empty
    if (highest >= threshold) return "only small islands are this probable, and they are dropped";
    if (threshold === this.found.thresholds[state.edge]) return why;
    return `nothing is this probable: the highest probability is ${highest.toFixed(2)}`;
  }

  async download(button) {
    const { kind } = button.dataset;
    const { edge, thresholds, clean } = state;
    const values = { model: $("model").value, edge, threshold: thresholds[edge], as_is: !clean };
    button.disabled = true;
    try {
      const url = URL.createObjectURL(await (await post(`api/${kind}`, values, this.file)).blob());
      const link = document.createElement("a");
      link.href = url;
      link.download = `${this.file.name.replace(/\.[^.]*$/, "")}-${kind}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      this.complain(error.message);
    } finally {
      button.disabled = false;
    }
  }

  remove() {
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    cards.delete(this);
    sight.unobserve(this.element);
    this.element.remove();
    document.body.classList.toggle("filled", cards.size > 0);
    (next?.querySelector(".remove") ?? $("files")).focus();
  }
}

/** Return a card's pixels as the view shows them, RGBA, and how many of them are pet. */
function drawn(card) {
  const { width } = card.photo;
  const levels = currentLevels();
  const probability = state.clean ? cleaned(card.probability, levels, width, state) : card.probability;
  const masks = cut(probability, levels);
  const pet = masks[state.edge];
  const alpha = state.view === "cutout" && alphaOf(probability, masks, levels, state.edge, state.softness, width);
  const data = new Uint8ClampedArray(card.photo.data);
  let pets = 0;
  for (let i = 0, at = 0; i < pet.length; i++, at += 4) {
    pets += pet[i];
    if (state.view === "mask") {
      data[at] = data[at + 1] = data[at + 2] = pet[i] * 255;
    } else if (state.view === "cutout") {
      data[at + 3] = alpha[i];
    } else if (state.view === "overlay" && !pet[i]) {
      const shade = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
      data[at] = data[at + 1] = data[at + 2] = 192 + shade / 4;
    } else if (state.view === "overlay" && isOutline(pet, i, width, card.outline)) {
      [data[at], data[at + 1], data[at + 2]] = OUTLINE;
    }
  }
  return { data, pets };
}

/** Whether a pixel of the pet has background within a distance above, below or beside it. */
function isOutline(pet, i, width, distance) {
  const x = i % width;
  for (let step = 1; step <= distance; step++) {
    if (
      pet[i - step * width] === 0 || pet[i + step * width] === 0 || // undefined outside the picture
      (x >= step && pet[i - step] === 0) || (x + step < width && pet[i + step] === 0)
    ) return true;
  }
  return false;
}

let scheduled = 0;
/** Draw every card again, once before the screen's next frame. */
function redraw() {
  cancelAnimationFrame(scheduled);
  scheduled = requestAnimationFrame(() => cards.forEach((card) => card.draw()));
}

function show(view) {
  state.view = view;
  document.querySelector(`[name=view][value=${view}]`).checked = true;
  $("cards").dataset.view = view;
  redraw();
}

/** Show another edge, with its own threshold. */
function showEdge(edge) {
  state.edge = edge;
  $("strip").textContent = chosenModel().two_outputs ? EDGES[edge] : ONE_EDGE;
  $("meaning").textContent = chosenModel().two_outputs
    ? `The ${edge} mask has the pixels with at least this probability.`
    : "A pixel with at least this probability is pet.";
  setThreshold(state.thresholds[edge]);
}

/** Move the threshold of the edge that is shown. */
function setThreshold(value) {
  state.thresholds[state.edge] = value;
  const chosen = chosenModel().thresholds[state.edge];
  $("threshold").value = value;
  $("value").textContent = value.toFixed(2);
  $("reset").textContent = `Back to ${chosen.toFixed(2)}`;
  $("reset").hidden = value === chosen;
  redraw();
}

/** Return the grey levels at which masks are cut. The edge that is not shown has the threshold that validation chose. */
function currentLevels() {
  const { thresholds, two_outputs: two } = chosenModel();
  const shown = state.thresholds[state.edge];
  const { whole, tight } = { ...(two ? thresholds : { whole: shown, tight: shown }), [state.edge]: shown };
  return { whole: whole * 255, tight: tight * 255 };
}

const chosenModel = () => state.models.find((model) => model.key === $("model").value);

function describeModel() {
  const model = chosenModel();
  const dice = (value) => (value === null ? "not known" : value.toFixed(3));
  $("about").textContent = `${model.network}\nDice: validation ${dice(model.val_dice)}, test ${dice(model.test_dice)}`;
  $("edges").disabled = !model.two_outputs;
  state.thresholds = { ...model.thresholds }; // as validation chose them
  showEdge(state.edge);
}

/** Send photos one after the other, and show the progress. */
function send(waitingCards) {
  waitingCards.forEach((card) => card.wait());
  for (const card of waitingCards) {
    queue = queue.then(async () => {
      if (!cards.has(card)) return;
      try {
        await card.send();
      } catch (error) {
        card.fail(error);
      }
      const all = [...cards];
      const failed = all.filter((one) => one.element.className === "failed").length;
      const waiting = all.filter((one) => one.element.className === "waiting").length;
      const done = `${all.length - failed - waiting} of ${all.length} cut out`;
      $("status").textContent = done + (failed ? `, ${failed} refused` : "") + ".";
    });
  }
}

function add(files) {
  const room = MOST_CARDS - cards.size;
  const added = [...files].slice(0, room).map((file) => new Card(file));
  for (const card of added) {
    cards.add(card);
    $("cards").append(card.element);
  }
  document.body.classList.toggle("filled", cards.size > 0);
  if (files.length > room) $("status").textContent = `At most ${MOST_CARDS} photos at once; remove some first.`;
  send(added);
}

function listenForFiles() {
  $("files").addEventListener("change", () => {
    add($("files").files);
    $("files").value = ""; // so that the same file can be chosen again
  });
  // On the whole page, because a photo that is dropped beside the zone would replace the page.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    add(event.dataTransfer.files);
  });
}

function listenToControls() {
  addEventListener("keydown", (event) => {
    const view = VIEWS[event.key - 1];
    if (view && !event.ctrlKey && !event.metaKey && !event.altKey && event.target !== $("model")) show(view);
  });
  $("model").addEventListener("change", () => {
    describeModel();
    send([...cards]);
  });
  $("threshold").addEventListener("input", () => setThreshold($("threshold").valueAsNumber));
  $("reset").addEventListener("click", () => setThreshold(chosenModel().thresholds[state.edge]));
  $("views").addEventListener("change", (event) => show(event.target.value));
  $("edges").addEventListener("change", (event) => showEdge(event.target.value));
  $("clean").addEventListener("change", () => {
    state.clean = $("clean").checked;
    redraw();
  });
}

async function start() {
  const { models, first, softness, island, hole } = await (await ask("api/models")).json();
  Object.assign(state, { models, softness, island, hole });
  $("model").append(
    ...models.map(({ key, name, champion }) =>
      new Option(`${name}${champion ? ", the champion" : ""}`, key, false, key === first)),
  );
  show(state.view);
  describeModel();
  listenToControls();
}

listenForFiles(); // first, because a photo that is dropped before would replace the page
queue = start().catch((error) => {
  $("status").textContent = error.message;
});
