// Makes masks and alpha of probabilities, as petseg predict does in petseg/models/masking.py and
// petseg/predict/pictures.py. Masks are cleaned here in the size that is shown, but by petseg predict in the network's
// size, so an island near the limit may differ from the download. Probabilities are greys from 0 to 255 for each edge,
// and so are the levels to cut them at.

/** Return the mask of each edge; the tight one lies within the whole one. */
export function cut({ whole, tight }, levels) {
  const masks = { whole: new Uint8Array(whole.length), tight: new Uint8Array(whole.length) };
  for (let i = 0; i < whole.length; i++) {
    if (whole[i] < levels.whole) continue;
    masks.whole[i] = 1;
    masks.tight[i] = tight[i] >= levels.tight;
  }
  return masks;
}

/** Drop islands that are small compared to the largest, and fill holes that are small compared to the mask. */
export function cleaned(probability, levels, width, { island, hole }) {
  const [whole, tight] = [probability.whole.slice(), probability.tight.slice()];
  for (const edge of ["whole", "tight"]) {
    const islands = components(cut({ whole, tight }, levels)[edge], 1, width, 1);
    const largest = Math.max(...islands.map(({ size }) => size));
    for (const { size, runs } of islands) {
      if (size < island * largest) paint(runs, 0, ...(edge === "whole" ? [whole, tight] : [tight]));
    }
  }
  const masks = cut({ whole, tight }, levels);
  for (const { runs } of holes(masks.whole, width, hole)) paint(runs, 255, whole);
  for (const { runs } of holes(masks.tight, width, hole)) paint(runs, 255, whole, tight);
  return { whole, tight };
}

function holes(mask, width, share) {
  const around = components(mask, 0, width, 0);
  const area = mask.length - around.reduce((sum, { size }) => sum + size, 0);
  return around.filter(({ size, framed }) => size < share * area && !framed);
}

function paint(runs, value, ...pictures) {
  for (const [start, end] of runs) pictures.forEach((picture) => picture.fill(value, start, end));
}

/**
 * Return the components of a mask's pixels with one value: the size of each, whether it touches the frame, and its runs
 * of pixels. If corner is 1, pixels that touch at a corner belong to the same component.
 */
function components(mask, value, width, corner) {
  const runs = []; // [start, end] of each run, row by row
  const parent = []; // for each run, another run of its component, or itself
  const root = (run) => {
    while (parent[run] !== run) run = parent[run] = parent[parent[run]];
    return run;
  };
  for (let row = 0, above = 0, here = 0; row < mask.length; row += width) {
    [above, here] = [here, runs.length];
    for (let i = row; i < row + width; i++) {
      if (mask[i] !== value) continue;
      const start = i;
      while (i < row + width && mask[i] === value) i++;
      const run = runs.push([start, i]) - 1;
      parent.push(run);
      while (above < here && runs[above][1] + width + corner <= start) above++;
      for (let other = above; other < here && runs[other][0] + width < i + corner; other++) {
        parent[root(other)] = root(run);
      }
    }
  }
  const found = new Map();
  runs.forEach(([start, end], run) => {
    const part = found.get(root(run)) ?? { size: 0, framed: false, runs: [] };
    part.size += end - start;
    part.framed ||= start % width === 0 || end % width === 0 || start < width || end > mask.length - width;
    part.runs.push([start, end]);
    found.set(root(run), part);
  });
  return [...found.values()];
}

/**
 * Return how opaque each pixel of a cut-out is. The tight mask is opaque, and alpha falls over the strip around it, to 0
 * midway to the edge of the whole mask. Without a strip, and around the whole mask, it falls over `softness` of
 * probability.
 */
export function alphaOf(probability, masks, levels, edge, softness, width) {
  const { whole, tight } = masks;
  if (edge === "whole" || whole.every((value, i) => value === tight[i])) {
    const soft = Uint8ClampedArray.from({ length: 256 }, (_, value) =>
      Math.floor((value - levels[edge]) / softness + 128));
    const alpha = probability[edge].map((value, i) => (masks[edge][i] ? soft[value] : Math.min(127, soft[value])));
    return beside(alpha, masks[edge], width);
  }
  const alpha = whole.map((value, i) => {
    if (!value || tight[i]) return value * 255;
    const within = probability.whole[i] - levels.whole;
    const outside = Math.max(0, levels.tight - probability.tight[i]);
    return (254 * Math.max(0, within - outside)) / (within + outside || 1);
  });
  return beside(alpha, tight, width);
}

/** Make transparent the parts that do not touch the mask, such as around an island that was dropped. */
function beside(alpha, mask, width) {
  for (const { runs } of components(alpha.map((value) => (value ? 1 : 0)), 1, width, 1)) {
    if (!runs.some(([start, end]) => mask.subarray(start, end).includes(1))) paint(runs, 0, alpha);
  }
  return alpha;
}
