// The results as one HTML page that needs nothing else: bars for the ratios, a table for the seconds.
import { isStock, ratio, seconds, summary } from './figures.mjs';

const widest = 640;
/** Ratios from 1/1000 to 10, on a logarithmic scale. */
const position = (value) => ((Math.log10(Math.min(10, Math.max(0.001, value))) + 3) / 4) * widest;

const escaped = (text) => String(text).replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

/** @param {object} results as main.mjs collects them */
export function page(results) {
  const { date, machine, scale, rounds, operations, inProcess } = results;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>qcow2 beside qemu-img</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; } .good { fill: #2da44e; } .bad { fill: #cf5b3b; } svg text { font-size: 13px; }
</style>
<h1>qcow2 beside qemu-img</h1>
<p>${escaped(date)}; ${Object.entries(machine)
    .map(([what, value]) => escaped(`${what} ${value}`))
    .join('; ')}. Size factor
${scale}, ${rounds} rounds. Whole processes, start-up of Node included.</p>
<h2>Our time / that of the best stock qemu-img</h2>
${chart(operations)}
<p>Green bars reach their aim (the black mark); the line shows minimum to maximum. The scale is logarithmic.</p>
<h2>Seconds and peak memory</h2>
${table(operations)}
<h2>Inside a process</h2>
${figures(inProcess)}
</html>
`;
}

function chart(operations) {
  const row = 26;
  const left = 330;
  const grid = [0.001, 0.01, 0.1, 1, 10].map((value) => {
    const x = left + position(value);
    return `<line x1="${x}" x2="${x}" y1="0" y2="${operations.length * row}" stroke="#ccc"/><text x="${x}" y="${operations.length * row + 16}" text-anchor="middle">${value}</text>`;
  });
  const bars = operations.map(({ name, where, target, ratio: reached }, index) => {
    const y = index * row;
    const kind = reached.median <= target ? 'good' : 'bad';
    const x = (value) => (left + position(value)).toFixed(1);
    return `<text x="${left - 8}" y="${y + 17}" text-anchor="end">${escaped(`${name} (${where})`)}</text>
<rect class="${kind}" x="${left}" y="${y + 4}" width="${position(reached.median).toFixed(1)}" height="${row - 8}"/>
<line x1="${x(reached.min)}" x2="${x(reached.max)}" y1="${y + row / 2}" y2="${y + row / 2}" stroke="#1b1f24"/>
<line x1="${x(target)}" x2="${x(target)}" y1="${y + 2}" y2="${y + row - 2}" stroke="#000" stroke-width="3"/>
<text x="${left + widest + 8}" y="${y + 17}">${ratio(reached.median)}</text>`;
  });
  return `<svg width="${left + widest + 60}" height="${operations.length * row + 24}" role="img">${grid.join('')}${bars.join('')}</svg>`;
}

function table(operations) {
  const rows = operations.flatMap(({ name, where, runs }) =>
    Object.entries(runs).map(([program, all]) => {
      const { median, min, max } = summary(all.map((one) => one.seconds));
      const peak = Math.max(...all.map((one) => one.mebibytes ?? 0));
      const shown = program === 'ours' || isStock(program) ? program : `${program} (not stock)`;
      return `<tr><td>${escaped(`${name} (${where})`)}</td><td>${escaped(shown)}</td><td>${seconds(median)}</td><td>${seconds(min)} to ${seconds(max)}</td><td>${peak.toFixed(0)}</td></tr>`;
    }),
  );
  return `<table><tr><th>Operation</th><th>Program</th><th>Median, s</th><th>Range, s</th><th>Peak, MiB</th></tr>${rows.join('\n')}</table>`;
}

function figures(all) {
  const rows = all.map(
    ({ name, unit, values }) =>
      `<tr><td>${escaped(name)}</td><td>${Object.entries(values)
        .map(([key, value]) => escaped(`${key} ${value}`))
        .join(', ')}</td><td>${escaped(unit)}</td></tr>`,
  );
  return `<table><tr><th>What</th><th>Measured</th><th>Unit</th></tr>${rows.join('\n')}</table>`;
}
