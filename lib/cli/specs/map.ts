/** The options of `map`. */
import { format, imageOpts, looking, output } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'map',
  summary: 'List which parts of a disk are stored, and where',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    { name: 'start-offset', letters: 's', argument: 'OFFSET', help: 'where to begin (default: 0)' },
    { name: 'max-length', letters: 'l', argument: 'LENGTH', help: 'how far to go (default: to the end)' },
    { name: 'html', argument: 'PAGE', help: 'write a page that shows the image, instead of the list' },
    { name: 'svg', argument: 'DRAWING', help: 'write a drawing of the image, instead of the list' },
    output,
    ...looking,
  ],
  examples: [
    'map disk.qcow2',
    'map --output=json -s 1G -l 100M disk.qcow2',
    'map --html disk.html disk.qcow2',
  ],
} as const satisfies CommandSpec;
