/** Layers as people write them: `8-12, 20`. */

export function writeLayers(layers: readonly number[]): string {
  const sorted = [...new Set(layers)].sort((a, b) => a - b);
  const runs: string[] = [];
  for (let at = 0; at < sorted.length; ) {
    let end = at;
    while (sorted[end + 1] === sorted[end]! + 1) end += 1;
    runs.push(end - at > 1 ? `${sorted[at]}-${sorted[end]}` : sorted.slice(at, end + 1).join(", "));
    at = end + 1;
  }
  return runs.join(", ");
}

/** Null if it is not a list of layers of a model with `count` of them. */
export function readLayers(text: string, count: number): number[] | null {
  const found = new Set<number>();
  for (const part of text.split(",").map((one) => one.trim())) {
    const run = /^(\d{1,4})(?:\s*-\s*(\d{1,4}))?$/.exec(part);
    if (!run) return null;
    const from = Number(run[1]);
    const to = Number(run[2] ?? run[1]);
    if (to < from || to >= count) return null;
    for (let layer = from; layer <= to; layer += 1) found.add(layer);
  }
  return [...found].sort((a, b) => a - b);
}
