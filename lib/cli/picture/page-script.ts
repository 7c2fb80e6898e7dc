/**
 * What makes the page's strips move: zoom, a cursor, what lies under it, and tips for whoever points at something. It runs in a browser, with nothing but the
 * page's own data; without it the strips and tables are still there.
 */
export const pageScript = String.raw`
'use strict';
(() => {
  const { lists, plot } = JSON.parse(document.getElementById('picture').textContent);
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  const size = (bytes) => {
    let unit = 0;
    for (; bytes >= 1000 && unit + 1 < units.length; unit++) bytes /= 1024;
    return (unit === 0 ? bytes : bytes.toPrecision(3)) + ' ' + units[unit];
  };
  const expand = (runs) => {
    const list = [];
    for (let i = 0; i < runs.length; i += 2) for (let n = runs[i]; n > 0; n--) list.push(runs[i + 1]);
    return list;
  };

  // Says beside the pointer what the output under a strip, or a table, says to everybody.
  const tip = document.createElement('div');
  tip.className = 'tip';
  tip.hidden = true;
  tip.setAttribute('aria-hidden', 'true');
  document.body.append(tip);
  const tell = (event, text) => {
    tip.textContent = text;
    tip.hidden = text === '';
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + 'px';
    const below = event.clientY + 18;
    tip.style.top = (below + tip.offsetHeight < innerHeight ? below : event.clientY - tip.offsetHeight - 12) + 'px';
  };
  const leave = () => { tip.hidden = true; };

  // Strips of one group show the same stretch.
  const groups = new Map();
  for (const svg of document.querySelectorAll('svg.strip')) {
    const { group, list } = svg.dataset;
    const strip = { svg, list: lists[list], kinds: Object.entries(lists[list].kinds).map(([label, runs]) => [label, expand(runs)]) };
    if (!groups.has(group)) groups.set(group, { strips: [], start: 0, end: strip.list.parts, cursor: 0 });
    groups.get(group).strips.push(strip);
    enliven(groups.get(group), strip);
  }

  function enliven(group, strip) {
    const { svg } = strip;
    strip.mark = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
    strip.mark.setAttribute('class', 'cursor');
    strip.mark.setAttribute('y', 0);
    strip.mark.setAttribute('height', 100);
    strip.mark.setAttribute('visibility', 'hidden');
    svg.append(strip.mark);
    svg.tabIndex = 0;
    svg.setAttribute('role', 'slider');
    svg.setAttribute('aria-valuemin', 0);
    svg.setAttribute('aria-valuemax', strip.list.parts - 1);
    const figure = svg.closest('figure');
    strip.axis = figure.querySelectorAll('.axis span');
    strip.output = figure.querySelector('output');
    const bar = figure.querySelector('.bar');
    for (const [label, text, act] of [
      ['Show all', 'All', () => zoom(group, Infinity, group.cursor)],
      ['Zoom out', '−', () => zoom(group, 2, group.cursor)],
      ['Zoom in', '+', () => zoom(group, 0.5, group.cursor)],
    ]) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = text;
      button.setAttribute('aria-label', label);
      button.title = label;
      button.addEventListener('click', act);
      bar.prepend(button);
    }
    const partAt = (event) => {
      const box = svg.getBoundingClientRect();
      const share = Math.min(0.999999, Math.max(0, (event.clientX - box.left) / box.width));
      return Math.min(strip.list.parts - 1, Math.floor(group.start + share * (group.end - group.start)));
    };
    svg.addEventListener('pointermove', (event) => {
      if (event.buttons === 1 && strip.drag !== undefined) {
        const moved = ((strip.drag - event.clientX) / svg.clientWidth) * (group.end - group.start);
        strip.drag = event.clientX;
        pan(group, moved);
      }
      const part = partAt(event);
      point(group, part);
      tell(event, describe(strip, part).replace(': ', '\n').replaceAll(', ', '\n'));
    });
    svg.addEventListener('pointerleave', leave);
    svg.addEventListener('pointerdown', (event) => { strip.drag = event.clientX; });
    svg.addEventListener('pointerup', () => { strip.drag = undefined; });
    svg.addEventListener('wheel', (event) => {
      if (!event.ctrlKey && Math.abs(event.deltaY) < Math.abs(event.deltaX)) return;
      event.preventDefault();
      zoom(group, event.deltaY < 0 ? 0.8 : 1.25, partAt(event));
    }, { passive: false });
    svg.addEventListener('focus', () => point(group, group.cursor));
    svg.addEventListener('keydown', (event) => {
      const page = Math.max(1, Math.round((group.end - group.start) / 10));
      const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: page, PageDown: -page };
      if (event.key in steps) point(group, group.cursor + steps[event.key]);
      else if (event.key === 'Home') point(group, 0);
      else if (event.key === 'End') point(group, strip.list.parts - 1);
      else if (event.key === '+' || event.key === '=') zoom(group, 0.5, group.cursor);
      else if (event.key === '-') zoom(group, 2, group.cursor);
      else if (event.key === '0') zoom(group, Infinity, group.cursor);
      else return;
      event.preventDefault();
    });
  }

  const drawing = document.querySelector('svg.plot');
  const stored = expand(plot.bytes);
  drawing.addEventListener('pointermove', (event) => {
    const box = drawing.getBoundingClientRect();
    const cell = (at, length) => Math.min(plot.side - 1, Math.max(0, Math.floor((at / length) * plot.side)));
    const column = cell(event.clientX - box.left, box.width);
    const row = cell(event.clientY - box.top, box.height);
    const range = (part, whole) => size(Math.round((part / plot.side) * whole)) + ' to ' + size(Math.round(((part + 1) / plot.side) * whole));
    const bytes = stored[column * plot.side + row];
    tell(event, bytes === 0 ? '' : 'Disk ' + range(column, plot.disk) + '\nFile ' + range(row, plot.file) + '\n' + size(bytes) + ' stored');
  });
  drawing.addEventListener('pointerleave', leave);

  function zoom(group, factor, around) {
    const parts = group.strips[0].list.parts;
    const span = Math.min(parts, Math.max(Math.min(parts, 8), (group.end - group.start) * factor));
    const share = (around + 0.5 - group.start) / (group.end - group.start);
    group.start = Math.min(parts - span, Math.max(0, around + 0.5 - share * span));
    group.end = group.start + span;
    show(group);
  }

  function pan(group, by) {
    const parts = group.strips[0].list.parts;
    const span = group.end - group.start;
    group.start = Math.min(parts - span, Math.max(0, group.start + by));
    group.end = group.start + span;
    show(group);
  }

  function point(group, part) {
    group.cursor = Math.min(group.strips[0].list.parts - 1, Math.max(0, part));
    if (group.cursor < group.start) pan(group, group.cursor - group.start);
    if (group.cursor + 1 > group.end) pan(group, group.cursor + 1 - group.end);
    for (const strip of group.strips) {
      const { mark, svg, output } = strip;
      mark.setAttribute('x', group.cursor);
      mark.setAttribute('width', 1);
      mark.setAttribute('visibility', 'visible');
      const text = describe(strip, group.cursor);
      output.textContent = text;
      svg.setAttribute('aria-valuenow', group.cursor);
      svg.setAttribute('aria-valuetext', text);
    }
  }

  function describe({ list, kinds }, part) {
    const start = part * list.partBytes;
    const end = Math.min(list.size, start + list.partBytes);
    const found = kinds.filter(([, values]) => values[part] > 0)
      .map(([label, values]) => label + ' ' + (label === list.count ? values[part] : size(values[part])));
    return size(start) + ' to ' + size(end) + ': ' + (found.join(', ') || 'nothing');
  }

  function show(group) {
    for (const { svg, axis, list } of group.strips) {
      svg.setAttribute('viewBox', group.start + ' 0 ' + (group.end - group.start) + ' 100');
      axis[0].textContent = size(group.start * list.partBytes);
      axis[1].textContent = size(Math.min(list.size, ((group.start + group.end) / 2) * list.partBytes));
      axis[2].textContent = size(Math.min(list.size, group.end * list.partBytes));
    }
  }
})();
`;
