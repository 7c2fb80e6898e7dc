/** The options of `bench`. */
import { format, imageOpts, looking, quiet } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'bench',
  summary: 'Measure how long requests to a disk take',
  operands: 'FILE',
  options: [
    { name: 'count', letters: 'c', argument: 'N', help: 'requests to send (default: 75000)' },
    { name: 'depth', letters: 'd', argument: 'N', help: 'requests in flight at once (default: 64)' },
    { name: 'offset', letters: 'o', argument: 'OFFSET', help: 'where to begin (default: 0)' },
    { name: 'buffer-size', letters: 's', argument: 'SIZE', help: 'bytes of a request (default: 4k)' },
    {
      name: 'step-size',
      letters: 'S',
      argument: 'SIZE',
      help: 'from one request to the next (default: their size)',
    },
    { name: 'write', letters: 'w', help: 'write instead of reading: destroys what is on the disk' },
    { name: 'pattern', argument: 'BYTE', help: 'what to write (default: 0)' },
    { name: 'flush-interval', argument: 'N', help: 'flush after so many writes' },
    { name: 'no-drain', help: 'do not wait for the requests in flight before a flush' },
    { name: 'cache', letters: 't', argument: 'CACHE', help: 'accepted for compatibility' },
    { name: 'aio', letters: 'i', argument: 'AIO', help: 'accepted for compatibility' },
    { name: 'native', letters: 'n', help: 'accepted for compatibility' },
    format,
    imageOpts,
    quiet,
    ...looking,
  ],
  examples: ['bench disk.qcow2', 'bench -w -c 10000 -s 64k scratch.qcow2'],
} as const satisfies CommandSpec;
