// Cut photos out with @imgly/background-removal-node, as its documentation shows: node remover.mjs FROM TO
// It writes a PNG into TO for each photo in FROM, and prints a line with the name of the photo and the seconds.

import { readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { removeBackground } from "@imgly/background-removal-node";

const [from, to] = process.argv.slice(2);
for (const name of (await readdir(from)).sort()) {
  const started = performance.now();
  const cutout = await removeBackground(pathToFileURL(path.join(from, name)));
  await writeFile(path.join(to, `${path.parse(name).name}.png`), Buffer.from(await cutout.arrayBuffer()));
  console.log(JSON.stringify({ name, seconds: (performance.now() - started) / 1000 }));
}
console.log(JSON.stringify({ peak_mb: process.resourceUsage().maxRSS / 1024 }));
