// Figures of many runs: medians, ratios, and how they are written.

/** @param {readonly number[]} values */
export function summary(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[Math.floor((sorted.length - 1) / 2)], min: sorted[0], max: sorted.at(-1) };
}

/** Programs that count as stock: their names do not end in `*`. */
export const isStock = (name) => name !== 'ours' && !name.endsWith('*');

/** Our seconds / the best stock program's, round by round. */
export function ratios(runs) {
  const others = Object.keys(runs).filter(isStock);
  return runs.ours.map(
    ({ seconds }, round) => seconds / Math.min(...others.map((name) => runs[name][round].seconds)),
  );
}

export const seconds = (value) => (value < 1 ? value.toFixed(3) : value.toFixed(2));
export const ratio = (value) => (value < 0.1 ? value.toFixed(3) : value.toFixed(2));
