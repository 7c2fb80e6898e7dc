// What is measured: each operation with its commands, of this package and of the others, and how its result is checked.
import { statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { cached } from './images.mjs';
import { run } from './process.mjs';

/** Ways of running qemu-img: the best of the stock ones is what this package is held against. */
const convertModes = { 'qemu-img': [], 'qemu-img -W -m 16': ['-W', '-m', '16'] };

/**
 * @typedef {object} Operation
 * @property {string} name
 * @property {number} target the ratio to reach: our seconds / those of the best stock qemu-img
 * @property {string} command of this package
 * @property {readonly string[]} images that it needs
 * @property {boolean} [changes] the first image: each run gets a copy of it
 * @property {number} [atMostRounds] where a round of qemu-img takes a minute
 * @property {(paths: Paths) => void} [prepare] runs before each run of a program, after the copy was made
 * @property {number} [exitCode] that is right, 0 unless told
 * @property {(paths: Paths) => string[]} ours arguments
 * @property {(paths: Paths) => Record<string, string[]>} theirs whole commands by name; those whose name ends in `*` are
 *   shown, but are no stock mode
 * @property {(paths: Paths) => void} [check] throws when the result is wrong
 *
 * @typedef {{ image: (name: string) => string, out: string, work: string, base: string }} Paths `out` is where a result goes,
 *   `work` the copy of an image that may be changed, `base` one of another image that an operation makes for itself
 */

/** Other programs that do the same as a conversion, and qemu-img with its caches tuned, which reads no other way than by options. */
const peers = {
  'raw to qcow2': (from, out) => ({ ...copies(from, out), ...throughNbd(from, out, 'raw', 'qcow2') }),
  'qcow2 to raw': (from, out) => ({
    'qemu-img, caches *': ['qemu-img', 'convert', '-O', 'raw', ...cached(from), out],
    ...throughNbd(from, out, 'qcow2', 'raw'),
    '@xen-orchestra/qcow2 *': [process.execPath, xenOrchestra, from, out],
  }),
  'qcow2 to qcow2': (from, out) => ({
    'qemu-img, caches *': ['qemu-img', 'convert', '-O', 'qcow2', ...cached(from), out],
  }),
};
const xenOrchestra = fileURLToPath(new URL('xen-orchestra-convert.mjs', import.meta.url));

/** A conversion of one image. */
function conversion(
  name,
  target,
  from,
  fromFormat,
  toFormat,
  { options = [], own = [], others = peers[`${fromFormat} to ${toFormat}`] } = {},
) {
  const formats = ['-f', fromFormat, '-O', toFormat, ...options];
  return {
    name,
    target,
    command: 'convert',
    images: [from],
    ours: ({ image, out }) => ['convert', ...formats, ...own, image(from), out],
    theirs: ({ image, out }) => ({
      ...Object.fromEntries(
        Object.entries(convertModes).map(([mode, extra]) => [
          mode,
          ['qemu-img', 'convert', ...extra, ...formats, image(from), out],
        ]),
      ),
      ...others(image(from), out),
    }),
    check: ({ image, out }) => {
      run('qemu-img', 'compare', '-f', fromFormat, '-F', toFormat, image(from), out);
      if (toFormat === 'qcow2') run('qemu-img', 'check', '-q', '-f', 'qcow2', out);
    },
  };
}

/** What compresses: nbdcopy, cp and dd do not. */
const nobody = () => ({});

const copies = (from, out) => ({
  'cp *': ['cp', '--sparse=always', from, out],
  'dd *': ['dd', `if=${from}`, `of=${out}`, 'bs=2M', 'conv=sparse', 'status=none'],
});

/** nbdcopy knows raw files only; qemu-nbd is in between for the other end. It makes no image, so that comes first. */
function throughNbd(from, out, fromFormat, toFormat) {
  const server = (format, path, ...options) => ['[', 'qemu-nbd', ...options, '-f', format, path, ']'];
  if (toFormat === 'raw') return { 'nbdcopy *': ['nbdcopy', '--', ...server(fromFormat, from, '-r'), out] };
  const { size } = statSync(from);
  const create = `qemu-img create -q -f ${toFormat} "$0" ${size}`;
  const copy = ['nbdcopy', '--', from, ...server(toFormat, out)];
  return { 'nbdcopy *': ['sh', '-c', `${create} && exec "$@"`, out, ...copy] };
}

function checking(name, target, from, exitCode = 0) {
  return {
    name,
    target,
    command: 'check',
    images: [from],
    exitCode,
    ours: ({ image }) => ['check', '-f', 'qcow2', image(from)],
    theirs: ({ image }) => ({
      'qemu-img': ['qemu-img', 'check', '-f', 'qcow2', image(from)],
      'qemu-img, caches *': ['qemu-img', 'check', ...cached(image(from))],
    }),
  };
}

const rawFile = (path) => `driver=raw,file.driver=file,file.filename=${path}`;

function comparing(name, target, a, b, format) {
  return {
    name,
    target,
    command: 'compare',
    images: [a, b],
    ours: ({ image }) => ['compare', '-f', 'raw', '-F', format, image(a), image(b)],
    theirs: ({ image }) => ({
      'qemu-img': ['qemu-img', 'compare', '-f', 'raw', '-F', format, image(a), image(b)],
      'qemu-img, caches *': [
        'qemu-img',
        'compare',
        '--image-opts',
        rawFile(image(a)),
        ...cached(image(b)).slice(1),
      ],
    }),
  };
}

const clean = ({ work }) => run('qemu-img', 'check', '-q', ...cached(work));

/** A command that changes an image in place. */
function change(name, target, from, args, check = clean) {
  return {
    name,
    target,
    command: args[0],
    images: [from],
    changes: true,
    ours: ({ work }) => [...args, work],
    theirs: ({ work }) => ({
      'qemu-img': ['qemu-img', ...args, work],
      'qemu-img, caches *': ['qemu-img', ...args, ...cached(work)],
    }),
    check,
  };
}

/** Whether data that is a hole in the file counts as zeros is left out: qemu-img looks into the file for some images. */
function sameMap(from) {
  const places = (json) => json.replaceAll(/"zero": (true|false), /g, '');
  return ({ image }, cli) => {
    const ours = run(process.execPath, cli, 'map', '--output=json', image(from));
    const theirs = run('qemu-img', 'map', '--output=json', image(from));
    if (places(ours) !== places(theirs)) throw new Error('the maps differ');
  };
}

/** @type {Operation[]} */
export const operations = [
  conversion('convert raw -> qcow2', 0.6, 'mixed.raw', 'raw', 'qcow2'),
  conversion('convert qcow2 -> raw', 0.7, 'mixed.qcow2', 'qcow2', 'raw'),
  conversion('convert zlib -> raw', 0.4, 'zlib.qcow2', 'qcow2', 'raw'),
  conversion('convert zstd -> raw', 0.46, 'zstd.qcow2', 'qcow2', 'raw'),
  conversion('convert raw -> zlib', 0.12, 'mixed.raw', 'raw', 'qcow2', { options: ['-c'], others: nobody }),
  conversion('convert raw -> zlib, best', 0.54, 'mixed.raw', 'raw', 'qcow2', {
    options: ['-c'],
    own: ['--compression-level', '6'],
    others: nobody,
  }),
  conversion('convert raw -> zstd', 0.72, 'mixed.raw', 'raw', 'qcow2', {
    options: ['-c', '-o', 'compression_type=zstd'],
    others: nobody,
  }),
  conversion('convert 4 KiB clusters, shuffled -> raw', 0.13, 'shuffled-4k.qcow2', 'qcow2', 'raw'),
  conversion('flatten a chain of 5', 0.6, 'chain-4.qcow2', 'qcow2', 'qcow2'),
  checking('check, all metadata', 0.15, 'metadata.qcow2'),
  checking('check, shuffled', 0.01, 'shuffled.qcow2'),
  checking('check, shuffled 4 KiB clusters', 0.01, 'shuffled-4k.qcow2'),
  checking('check, snapshots', 0.08, 'snapshots.qcow2'),
  checking('check, broken', 1, 'broken.qcow2', 2),
  {
    name: 'map as JSON',
    target: 0.15,
    command: 'map',
    images: ['ordered.qcow2'],
    ours: ({ image }) => ['map', '--output=json', image('ordered.qcow2')],
    theirs: ({ image }) => ({
      'qemu-img': ['qemu-img', 'map', '--output=json', image('ordered.qcow2')],
      'qemu-img, caches *': ['qemu-img', 'map', '--output=json', ...cached(image('ordered.qcow2'))],
    }),
    check: sameMap('ordered.qcow2'),
  },
  comparing('compare raw with qcow2', 0.3, 'mixed.raw', 'mixed.qcow2', 'qcow2'),
  comparing('compare raw with zlib', 0.2, 'mixed.raw', 'zlib.qcow2', 'qcow2'),
  {
    name: 'create, preallocation=metadata',
    target: 0.25,
    command: 'create',
    images: [],
    ours: ({ out, size }) => ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', out, size],
    theirs: ({ out, size }) => ({
      'qemu-img': ['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', out, size],
    }),
    check: ({ out }) => run('qemu-img', 'check', '-q', '-f', 'qcow2', out),
  },
  change('snapshot create, all metadata', 0.1, 'metadata.qcow2', ['snapshot', '-c', 'new']),
  {
    ...change('snapshot create, shuffled', 0.01, 'shuffled.qcow2', ['snapshot', '-c', 'new']),
    atMostRounds: 2,
  },
  {
    ...change('snapshot delete, shuffled', 0.01, 'shuffled-snapshot.qcow2', ['snapshot', '-d', 's1']),
    atMostRounds: 2,
  },
  {
    ...change('snapshot apply, shuffled', 0.01, 'shuffled-snapshot.qcow2', ['snapshot', '-a', 's1']),
    atMostRounds: 2,
  },
  {
    ...change('shrink, shuffled', 0.01, 'shuffled.qcow2', []),
    atMostRounds: 1,
    command: 'resize',
    ours: ({ work }) => ['resize', '-q', '--shrink', work, '1M'],
    theirs: ({ work }) => ({
      'qemu-img': ['qemu-img', 'resize', '-q', '--shrink', work, '1M'],
      'qemu-img, caches *': ['qemu-img', 'resize', '-q', '--shrink', ...cached(work), '1M'],
    }),
  },
  change('snapshot delete, one of many', 1, 'snapshots.qcow2', ['snapshot', '-d', 's1']),
  change('snapshot apply, one of many', 1, 'snapshots.qcow2', ['snapshot', '-a', 's1']),
  {
    ...change('commit in a chain of 5', 0.6, 'chain-4.qcow2', ['commit', '-q', '-d']),
    images: ['chain-4.qcow2', 'chain-3.qcow2'],
    prepare: ({ image, work, base }) => {
      run('cp', '--sparse=always', '--reflink=auto', image('chain-3.qcow2'), base);
      run('qemu-img', 'rebase', '-u', '-F', 'qcow2', '-b', base, work);
    },
    check: ({ image, base }) => {
      run('qemu-img', 'check', '-q', '-f', 'qcow2', base);
      run('qemu-img', 'compare', image('chain-4.qcow2'), base);
    },
  },
  {
    ...change('safe rebase in a chain of 5', 0.6, 'chain-4.qcow2', []),
    command: 'rebase',
    images: ['chain-4.qcow2', 'chain-0.qcow2'],
    ours: ({ work, image }) => ['rebase', '-F', 'qcow2', '-b', image('chain-0.qcow2'), work],
    theirs: ({ work, image }) => ({
      'qemu-img': ['qemu-img', 'rebase', '-F', 'qcow2', '-b', image('chain-0.qcow2'), work],
    }),
    check: ({ work, image }) => run('qemu-img', 'compare', image('chain-4.qcow2'), work),
  },
  {
    name: 'info (beside node -e 0)',
    target: 1.5,
    command: 'info',
    images: ['mixed.qcow2'],
    ours: ({ image }) => ['info', image('mixed.qcow2')],
    theirs: () => ({ 'node -e 0': [process.execPath, '-e', '0'] }),
  },
];
