// Results of runs as a table in Markdown: node table.mjs [--into PAGE.md] [--merged ALL.json] RESULTS.json...
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { isStock, ratio, seconds, summary } from './figures.mjs';

/** What stands around the table in a page. */
const begin = '<!-- measured: npm run bench:table -->';
const end = '<!-- end of measured -->';

/** Parts of one run, which may be at several sizes, as one. */
export function merged(parts) {
  const [first] = parts;
  const operations = parts.flatMap((part) =>
    part.operations.map((operation) => ({ scale: part.scale, rounds: part.rounds, ...operation })),
  );
  return { ...first, operations, inProcess: parts.flatMap(({ inProcess }) => inProcess) };
}

/** @param {object} results as `merged` gives them */
export function table({ operations }) {
  const head = [
    'operation',
    'where, size',
    'qemu-img, s',
    'caches tuned, s',
    'ours, s',
    'ratio (min to max)',
    'aim',
    'peak, MiB',
  ];
  const rows = operations.map(({ name, where, scale, runs, ratio: reached, target }) => {
    const stock = Object.keys(runs)
      .filter(isStock)
      .map((program) => median(runs[program]));
    const tuned = runs['qemu-img, caches *'];
    const peak = Math.max(...runs.ours.map(({ mebibytes }) => mebibytes ?? 0));
    const range = runs.ours.length === 1 ? '' : ` (${ratio(reached.min)} to ${ratio(reached.max)})`;
    return [
      name,
      `${where}, ${scale}`,
      seconds(Math.min(...stock)),
      tuned === undefined ? '' : seconds(median(tuned)),
      seconds(median(runs.ours)),
      `${ratio(reached.median)}${range}`,
      String(target),
      peak.toFixed(0),
    ];
  });
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column].length)),
  );
  const line = (cells) => `| ${cells.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

const median = (runs) => summary(runs.map((run) => run.seconds)).median;

/** A page with the table in its place. */
export function into(page, text) {
  const from = page.indexOf(begin);
  const to = page.indexOf(end);
  if (from < 0 || to < from) throw new Error(`The page has no place for the table: ${begin} and ${end}`);
  return `${page.slice(0, from + begin.length)}\n\n${text}\n\n${page.slice(to)}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({
    options: { into: { type: 'string' }, merged: { type: 'string' } },
    allowPositionals: true,
  });
  const results = merged(positionals.map((path) => JSON.parse(readFileSync(path, 'utf8'))));
  if (values.merged !== undefined) writeFileSync(values.merged, `${JSON.stringify(results)}\n`);
  if (values.into === undefined) console.log(table(results));
  else writeFileSync(values.into, into(readFileSync(values.into, 'utf8'), table(results)));
}
