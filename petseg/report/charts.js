"use strict";

/** Create an element; text is only ever set as text, so that no name can become markup. */
function make(tag, { text, className, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes, parent, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

const rounded = (value, digits = 3) => (value === null ? "undefined" : value.toFixed(digits));

/** Return about `count` round numbers from low to high. */
function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(+(n * step).toPrecision(6));
  return found;
}

/**
 * Draw a chart of lines or bars, whose values are read by pointing, touching or arrow keys.
 *
 * @param place the element to fill
 * @param title what the chart shows
 * @param x {label, values, text(i)}; for bars also {low, high}
 * @param y {label, low, high}; without low and high, the axis follows the values
 * @param series [{name, colour, values}]; null is a gap
 * @param bars whether the only series is drawn as bars
 * @param dots whether each value has a dot
 * @param diagonal whether the line y = x is drawn
 * @param marks [{x, name}]: vertical lines
 * @param resting the index whose values are shown while nobody points at the chart
 * @param extra (i) => a text that is shown after the values
 */
function chart(place, { title, x, y, series, bars, dots, diagonal, marks = [], resting = 0, extra = () => "" }) {
  const [height, left, bottom] = [240, 52, 44];
  const known = series.flatMap((line) => line.values).filter((value) => value !== null);
  const low = y.low ?? Math.min(...known);
  const high = y.high ?? Math.max(...known);
  const [first, last] = bars ? [x.low[0], x.high.at(-1)] : [x.first ?? x.values[0], x.last ?? x.values.at(-1)];
  const svg = draw("svg", { tabindex: 0, role: "img" }, make("div"));
  const legend = make("p", { className: "legend", "aria-live": "polite" });
  place.className = "chart";
  place.replaceChildren(make("h3", { text: title }), svg, legend);
  svg.setAttribute("aria-label", `${title}: ${y.label} by ${x.label}. Arrow keys read its values.`);

  let at = resting;
  let across; // maps a value of x to a position on the screen
  const up = (value) => height - bottom - ((value - low) / (high - low || 1)) * (height - bottom - 12);

  function redraw() {
    const width = place.clientWidth;
    if (!width) return;
    across = (value) => left + ((value - first) / (last - first || 1)) * (width - left - 8);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    for (const value of ticks(low, high)) {
      draw("line", { class: "grid", x1: left, x2: width - 8, y1: up(value), y2: up(value) }, svg);
      draw("text", { x: left - 8, y: up(value) + 4, "text-anchor": "end" }, svg, value);
    }
    for (const value of ticks(first, last, Math.min(6, width / 70)).filter((each) => !x.whole || Number.isInteger(each)))
      draw("text", { x: across(value), y: height - bottom + 18, "text-anchor": "middle" }, svg, value);
    draw("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, svg, x.label);
    const middle = (height - bottom) / 2;
    draw("text", { x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }, svg, y.label);
    if (diagonal)
      draw("path", { class: "beside", d: `M${across(0)} ${up(0)}L${across(1)} ${up(1)}` }, svg);
    for (const mark of marks) {
      draw("line", { class: "beside", x1: across(mark.x), x2: across(mark.x), y1: 8, y2: height - bottom }, svg);
      const end = across(mark.x) > width * 0.78;
      draw("text", { x: across(mark.x) + (end ? -6 : 6), y: mark.y ?? 16, "text-anchor": end ? "end" : "start" }, svg, mark.name);
    }
    if (bars) drawBars();
    else series.forEach(drawLine);
    show();
  }

  function drawBars() {
    series[0].values.forEach((value, i) => {
      const [from, to] = [across(x.low[i]), across(x.high[i])];
      const shape = { x: from + 0.5, width: to - from - 1, y: up(value), height: up(0) - up(value) };
      draw("rect", { class: `bar ${series[0].colour}`, ...shape }, svg);
    });
  }

  function drawLine({ values, colour, mark }) {
    let path = "";
    values.forEach((value, i) => {
      if (value === null) return;
      const joined = path && (dots || values[i - 1] !== null);
      path += `${joined ? "L" : "M"}${across(x.values[i]).toFixed(1)} ${up(value).toFixed(1)}`;
    });
    draw("path", { class: `curve ${colour}`, d: path }, svg);
    const shown = dots ? values.keys() : mark === undefined ? [] : [mark];
    for (const i of shown)
      if (values[i] !== null) draw("circle", { class: `dot ${colour}`, cx: across(x.values[i]), cy: up(values[i]), r: dots ? 4 : 6 }, svg);
  }

  /** Show the values at the current index, and move the cursor there. */
  function show() {
    svg.querySelectorAll(".cursor").forEach((line) => line.remove());
    if (bars) svg.querySelectorAll(".bar").forEach((bar, i) => bar.classList.toggle("on", i === at));
    else draw("line", { class: "cursor", x1: across(x.values[at]), x2: across(x.values[at]), y1: 8, y2: height - bottom }, svg);
    legend.replaceChildren(make("b", { text: x.text(at) }));
    for (const { name, colour, values, digits } of series) {
      const swatch = make("span", { className: `swatch ${colour}` });
      legend.append(make("span", {}, swatch, `${name} `, make("b", { text: rounded(values[at], digits) })));
    }
    if (extra(at)) legend.append(make("span", { className: "muted", text: extra(at) }));
  }

  function move(to) {
    at = Math.max(0, Math.min(series[0].values.length - 1, to));
    show();
  }

  function point(event) {
    const pointed = event.clientX - svg.getBoundingClientRect().left;
    const middle = (i) => across(bars ? (x.low[i] + x.high[i]) / 2 : x.values[i]);
    const away = series[0].values.map((_, i) => Math.abs(middle(i) - pointed)).map((d) => (isNaN(d) ? Infinity : d));
    move(away.indexOf(Math.min(...away)));
  }

  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && move(resting));
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    move(steps[event.key]);
  });
  new ResizeObserver(redraw).observe(place);
  redraw();
}

/**
 * Draw a table of means with their intervals, on one scale that ends at 1.
 *
 * @param rows [{name, mask, dice, low, high, photos, main}]
 */
function intervals(table, rows) {
  const known = rows.filter((row) => row.dice !== null);
  const first = Math.min(0.9, ...known.map((row) => Math.floor(10 * row.low) / 10));
  const at = (value) => `${(100 * (value - first)) / (1 - first)}%`;
  const scale = make("div", { className: "ticks" });
  for (const value of ticks(first, 1, 4)) {
    const tick = make("span", { text: value });
    tick.style.left = at(value);
    scale.append(tick);
  }
  const body = rows.map(({ name, mask, dice, low, high, photos, main }) => {
    const [line, dot] = [make("i"), make("b")];
    line.style.left = at(low);
    line.style.width = at(first + high - low);
    dot.style.left = at(dice);
    const track = make("div", { className: "track" }, ...(dice === null ? [] : [line, dot]));
    const interval = photos === 1 || dice === null ? "" : ` ${rounded(low)}–${rounded(high)}`;
    return make("tr", { className: main ? "main" : "" },
      make("th", { scope: "row" }, photos === undefined ? name : `${name} (${photos})`, ...(mask ? [make("small", { text: mask })] : [])),
      make("td", { "aria-hidden": "true" }, track),
      make("td", { className: "value" }, make("b", { text: rounded(dice) }), interval));
  });
  table.replaceChildren(...body, make("tr", { "aria-hidden": "true" }, make("td"), make("td", {}, scale), make("td")));
}
