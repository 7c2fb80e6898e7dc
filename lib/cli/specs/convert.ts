/** The options of `convert`. */
import {
  backingFormat,
  format,
  imageOpts,
  looking,
  progress,
  quiet,
  rateLimit,
  snapshotChoice,
} from './shared.js';
import type { CommandSpec } from './shared.js';

export const compress = {
  name: 'compress',
  letters: 'c',
  help: 'compress the clusters of a qcow2 target',
} as const;
export const targetOptions = {
  name: 'target-format-options',
  letters: 'o',
  argument: 'NAME=VALUE,...',
  help: 'options of the target format; -o help lists them',
} as const;

export const spec = {
  name: 'convert',
  summary: 'Copy a disk into a new image',
  operands: 'SOURCE... TARGET',
  options: [
    { ...format, name: 'source-format' },
    imageOpts,
    { name: 'source-cache', letters: 'T', argument: 'CACHE', help: 'accepted for compatibility' },
    {
      name: 'target-format',
      letters: 'O',
      argument: 'FMT',
      help: 'format of the new image, qcow2 or raw (default: raw)',
    },
    targetOptions,
    {
      name: 'target-cache',
      letters: 't',
      argument: 'CACHE',
      help: 'with anything but unsafe (the default) the target is on the disk when the command ends',
    },
    {
      name: 'backing',
      letters: 'Bb',
      argument: 'FILE',
      help: 'make the target an overlay over FILE, which shows what the backing file of SOURCE shows',
    },
    { name: 'backing-format', letters: 'F', ...backingFormat },
    compress,
    {
      name: 'compression-level',
      argument: 'N',
      help: 'with -c: 1 to 12 for zlib (default: 1), 1 to 22 for zstd (default: 3); 6 makes small zlib images',
    },
    {
      name: 'sparse-size',
      letters: 'S',
      argument: 'SIZE',
      help: 'shortest run of zeros to leave out (default: 4k); 0 leaves out nothing',
    },
    { name: 'no-create', letters: 'n', help: 'write into a target that exists' },
    { name: 'parallel', letters: 'm', argument: 'N', help: 'requests in flight at once, 1 to 16' },
    { name: 'oob-writes', letters: 'W', help: 'accepted: the target may be written in any order' },
    { name: 'copy-range-offloading', letters: 'C', help: 'accepted: the file system may share extents' },
    rateLimit,
    snapshotChoice,
    { name: 'bitmaps', help: 'copy the persistent bitmaps, too' },
    { name: 'skip-broken-bitmaps', help: 'with --bitmaps: leave out those that are not consistent' },
    { name: 'salvage', help: 'go on where the source cannot be read, with zeros' },
    { name: 'target-is-zero', help: 'with -n: the target is known to read as zeros' },
    { name: 'target-image-opts', help: 'with -n: the target is named by a list as for --image-opts' },
    progress,
    quiet,
    ...looking,
  ],
  examples: [
    'convert -O qcow2 disk.raw disk.qcow2',
    'convert -p -c -O qcow2 -o compression_type=zstd a.qcow2 b.qcow2',
  ],
} as const satisfies CommandSpec;
