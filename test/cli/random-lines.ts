/** Command lines put together at random from tables of what each command takes, right and wrong. */
import type { Random } from '../support/pattern.js';

type Pool = readonly [string, ...string[]];

interface CommandTable {
  /** Options and what may stand behind them; an empty pool for those without an argument. */
  options: Readonly<Record<string, readonly string[]>>;
  /** One pool for each word that the command wants. */
  operands: readonly Pool[];
}

const images: Pool = [
  'empty.qcow2', 'data.qcow2', 'small.qcow2', 'extended.qcow2', 'compressed.qcow2', 'overlay.qcow2', 'states.qcow2',
  'sparse.raw', 'v2.qcow2', 'zero.qcow2', 'odd.qcow2', 'onraw.qcow2', 'external.qcow2', 'rawexternal.qcow2',
  'sub/top.qcow2', 'leak.qcow2', 'preallocated.qcow2', 'reserved.qcow2',
]; // prettier-ignore
const oddFiles: Pool = [
  'orphan.qcow2', 'dirty.qcow2', 'corrupt.qcow2', 'cut.qcow2', 'shared.qcow2', 'nothing.qcow2', 'text.raw',
  'missing.qcow2', 'sub', 'sub/none/x', 'luks.qcow2', '', 'nbd:', 'driver=qcow2,file.filename=data.qcow2',
  'driver=raw,file.filename=sparse.raw', 'file.filename=small.qcow2', 'json:{"driver":"qcow2","file":"data.qcow2"}',
  'json:{"driver":"qcow2","file":{"driver":"file","filename":"data.qcow2"}}',
  'json:{"driver":"qcow2","file":{"driver":"file","filename":"overlay.qcow2"},"backing":null}',
  'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"sparse.raw"}}', 'file:data.qcow2', 'driver=vmdk',
]; // prettier-ignore
/** Images as `--image-opts` names them. */
const imageOptions: Pool = [
  'driver=qcow2,file.filename=data.qcow2', 'file.filename=small.qcow2', 'driver=raw,file.filename=sparse.raw',
  'driver=qcow2,file.driver=file,file.filename=overlay.qcow2', 'filename=states.qcow2', 'driver=file,filename=sparse.raw',
  'driver=qcow2,file.filename=missing.qcow2', 'driver=raw,file.filename=data.qcow2,size=65536,offset=65536',
  'driver=qcow2,file.filename=overlay.qcow2,backing.driver=raw,backing.file.filename=sparse.raw', 'driver=vmdk',
  'driver=qcow2', 'driver=qcow2,file.filename=data.qcow2,foo=1', 'driver=qcow2,driver=raw,file.filename=data.qcow2',
  'driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=s', 'driver=qcow2,file.filename=sparse.raw', '=', '',
  'driver=qcow2,file.filename=data.qcow2,lazy-refcounts=on', 'driver=qcow2,file.filename=data.qcow2,read-only=on',
  'driver=raw,file.filename=sparse.raw,offset=64k', 'driver=raw,file.filename=sparse.raw,offset=64k,size=512k',
  'driver=raw,file.filename=sparse.raw,size=100', 'driver=raw,file.filename=sparse.raw,offset=2M',
  'driver=qcow2,file.filename=overlay.qcow2,backing.driver=qcow2,backing.file.filename=onraw.qcow2',
  'driver=qcow2,file.filename=overlay.qcow2,backing.driver=raw,backing.file.filename=missing',
  'driver=qcow2,file.filename=onraw.qcow2,backing.driver=raw,backing.file.filename=text.raw,backing.size=512',
  'driver=qcow2,file.filename=states.qcow2,backing.driver=qcow2,backing.file.filename=data.qcow2',
  'driver=qcow2,file.filename=overlay.qcow2,backing.foo=1',
  'driver=qcow2,file.filename=overlay.qcow2,backing=', 'driver=nbd', 'driver=nbd,server.type=unix,server.path=/nowhere',
]; // prettier-ignore
const targets: Pool = ['new', 'new', 'new', 'sub/new', 'empty.qcow2', 'data.qcow2', 'sparse.raw'];
const oddTargets: Pool = [
  '',
  'sub',
  'none/new',
  'text.raw',
  'nothing.qcow2',
  'nbd:unix:/nowhere',
  'file:new',
];
const formats: readonly string[] = ['qcow2', 'qcow2', 'qcow2', 'raw'];
const oddFormats: readonly string[] = ['vmdk', 'qcow3', ''];
const sizes: readonly string[] = ['1M', '64k', '1000', '4k', '0', '1.5M', '8M', '512', '20M', '65537'];
const oddSizes: readonly string[] = [
  '-1', 'abc', '', '1k1', '0x1000', '1e3', ' 5', '1b', '1KiB', '+64k', '.5M', '1.', '9223372036854775807', '8E',
  '18446744073709551616', '16E', '1,5M', 'nan', 'inf', '1Q',
]; // prettier-ignore
const caches: readonly string[] = ['writeback', 'none', 'unsafe', 'writethrough', 'directsync'];
const backings: readonly string[] = ['data.qcow2', 'sparse.raw', 'small.qcow2', 'overlay.qcow2', 'odd.qcow2'];
const names: Pool = ['first', '2', 'new', '1', 'a snapshot with quite a long name', 'none', ''];
const bitmapNames: Pool = ['tracking', 'still', 'new', 'none', ''];
const snapshotChoices = [
  'first',
  '1',
  'snapshot.id=1',
  'snapshot.name=first',
  'snapshot.id=2,snapshot.name=first',
  'x',
];
const secret = 'secret,id=s,data=geheim';
const objects: readonly string[] = [
  secret,
  'secret,id=s',
  'secret',
  'nothing,id=s',
  'secret,id=s,data=x,format=hex',
];

/** The options of the format, in right and wrong settings. */
const createOptions: readonly string[] = [
  'compat=0.10', 'compat=1.1', 'compat=v3', 'compat=1.0', 'cluster_size=512', 'cluster_size=1k', 'cluster_size=4k',
  'cluster_size=128k', 'cluster_size=2M', 'cluster_size=4M', 'cluster_size=0', 'cluster_size=100', 'refcount_bits=1',
  'refcount_bits=8', 'refcount_bits=64', 'refcount_bits=3', 'refcount_bits=0', 'lazy_refcounts=on',
  'lazy_refcounts=off', 'lazy_refcounts=yes', 'extended_l2=on', 'extended_l2', 'compression_type=zstd',
  'compression_type=zlib', 'compression_type=lzma', 'preallocation=off', 'preallocation=metadata',
  'preallocation=falloc', 'preallocation=full', 'preallocation=some', 'data_file=new.data', 'data_file_raw=on',
  'size=1M', 'size=2M', 'size=', 'backing_file=data.qcow2', 'backing_file=sparse.raw', 'backing_fmt=qcow2',
  'backing_fmt=raw', 'encryption=on', 'encrypt.format=luks', 'encrypt.format=none', 'encrypt.key-secret=s', 'help', 'foo=1', '=',
  'compat', 'nocow=on', 'nolazy_refcounts', 'cluster_size=64k,cluster_size=1k', '', ',', 'extent_size_hint=1M',
]; // prettier-ignore
const amendOptions: readonly string[] = [
  'compat=0.10', 'compat=1.1', 'lazy_refcounts=on', 'lazy_refcounts=off', 'refcount_bits=8', 'refcount_bits=16',
  'refcount_bits=64', 'refcount_bits=7', 'size=2M', 'size=1k', 'size=2G', 'backing_file=sparse.raw', 'backing_file=',
  'backing_fmt=raw', 'data_file_raw=on', 'data_file=x', 'help', 'cluster_size=4k', 'foo=1', 'encrypt.state=active',
]; // prettier-ignore

/** What a command takes in qemu-img 7.2; later letters and names are tested against the documentation of later versions. */
export const commandTables: Readonly<Record<string, CommandTable>> = {
  create: {
    options: { '-f': formats, '-o': createOptions, '-b': backings, '-F': formats, '-u': [], '-q': [], '--object': objects },
    operands: [targets, ['1M', ...sizes, ...sizes, ...sizes, ...oddSizes]],
  },
  info: {
    options: { '-f': formats, '--backing-chain': [], '--output': ['json', 'human', 'xml'], '-U': [], '--image-opts': [] },
    operands: [images],
  },
  check: {
    options: {
      '-f': formats, '-r': ['leaks', 'all', 'some'], '--output': ['json', 'human', 'xml'], '-T': caches, '-U': [], '-q': [],
      '--image-opts': [], '--repair': ['leaks', 'all'],
    },
    operands: [images],
  },
  map: {
    options: {
      '-f': formats, '-s': sizes, '-l': sizes, '--output': ['json', 'json', 'human', 'xml'], '-U': [], '--image-opts': [],
      '--start-offset': sizes, '--max-length': sizes,
    },
    operands: [images],
  },
  convert: {
    options: {
      '-f': formats, '-O': formats, '-o': createOptions, '-c': [], '-S': ['0', '4k', '64k', '512', '100', '32M', 'x'],
      '-n': [], '-p': [], '-q': [], '-m': ['1', '16', '0', '17', 'x'], '-W': [], '-C': [], '-l': snapshotChoices,
      '-B': backings, '-F': formats, '-r': ['10G', '0', '-1', 'x'], '--bitmaps': [], '--skip-broken-bitmaps': [],
      '--salvage': [], '--target-is-zero': [], '-t': caches, '-T': caches, '-U': [], '--image-opts': [],
      '--target-image-opts': [],
    },
    operands: [images, targets],
  },
  measure: {
    options: {
      '-f': formats, '-O': formats, '-o': createOptions, '-l': snapshotChoices, '--size': sizes,
      '--output': ['json', 'human', 'xml'], '-U': [], '--image-opts': [],
    },
    operands: [images],
  },
  resize: {
    options: {
      '-f': formats, '--preallocation': ['off', 'metadata', 'falloc', 'full', 'some'], '--shrink': [], '-q': [],
      '--image-opts': [],
    },
    operands: [images, ['1M', '2M', '+1M', '-64k', '-1M', '+0', '1', '+', '-', '8M', ...sizes]],
  },
  rebase: {
    options: {
      '-f': formats, '-b': [...backings, ''], '-F': formats, '-u': [], '-p': [], '-q': [], '-t': caches, '-T': caches, '-U': [],
      '--image-opts': [],
    },
    operands: [['overlay.qcow2', 'onraw.qcow2', 'sub/top.qcow2', 'orphan.qcow2', ...images]],
  },
  commit: {
    options: {
      '-f': formats, '-b': backings, '-d': [], '-p': [], '-q': [], '-t': caches, '-r': ['10G', '0', 'x'], '--image-opts': [],
    },
    operands: [['overlay.qcow2', 'onraw.qcow2', 'sub/top.qcow2', 'overlay.qcow2', 'onraw.qcow2', ...images]],
  },
  amend: {
    options: { '-f': formats, '-o': amendOptions, '-t': caches, '-p': [], '-q': [], '--force': [], '--image-opts': [] },
    operands: [images],
  },
  snapshot: {
    options: { '-l': [], '-c': names, '-a': names, '-d': names, '-q': [], '-U': [], '--image-opts': [] },
    operands: [['states.qcow2', 'states.qcow2', 'states.qcow2', ...images]],
  },
  bitmap: {
    options: {
      '--add': [], '--remove': [], '--clear': [], '--enable': [], '--disable': [], '--merge': bitmapNames,
      '-g': ['64k', '512', '1M', '100', '4G', 'x'], '-b': images, '-F': formats, '-f': formats, '--image-opts': [],
    },
    operands: [['states.qcow2', 'states.qcow2', 'states.qcow2', ...images], bitmapNames],
  },
  compare: {
    options: { '-f': formats, '-F': formats, '-s': [], '-p': [], '-q': [], '-T': caches, '-U': [], '--image-opts': [] },
    operands: [images, images],
  },
  dd: {
    options: { '-f': formats, '-O': formats, '-U': [], '--image-opts': [] },
    operands: [],
  },
}; // prettier-ignore

/** What a value is taken from when it is to be wrong. */
const wrong: Readonly<Record<string, readonly string[]>> = {
  '-f': oddFormats, '-F': oddFormats, '-O': oddFormats, '-s': oddSizes, '-l': oddSizes, '--size': oddSizes,
  '-b': oddFiles, '-B': oddFiles, '-t': ['', 'fast'], '-T': ['', 'fast'], '-r': oddSizes, '-S': oddSizes, '-g': oddSizes,
  '--start-offset': oddSizes, '--max-length': oddSizes, '-m': oddSizes,
}; // prettier-ignore

/** A command line; most of its words make sense. */
export function randomLine(random: Random): string[] {
  const command = random.pick(Object.keys(commandTables) as unknown as Pool);
  const table = commandTables[command] ?? { options: {}, operands: [] };
  const options = manyOf(random, Object.keys(table.options)).flatMap((option) =>
    optionWords(random, command, option, table.options[option] ?? []),
  );
  const named = options.includes('--image-opts') && random.chance(0.9) ? imageOptions : images;
  const operands = command === 'dd' ? ddOperands(random, named) : operandsOf(random, table, named);
  return [command, ...(random.chance(0.1) ? [...operands, ...options] : [...options, ...operands])];
}

/** None to five options, in any order, now and then one twice. */
function manyOf(random: Random, options: readonly string[]): string[] {
  const count = Math.min(random.between(0, 5), random.between(0, 5) + 1);
  return Array.from({ length: count }, () => options[random.below(options.length)] ?? '');
}

function optionWords(random: Random, command: string, option: string, pool: readonly string[]): string[] {
  if (pool.length === 0) return [option];
  const isWrong = wrong[option] !== undefined && random.chance(0.06);
  const value =
    option === '-o' ? optionList(random, pool) : one(random, isWrong ? (wrong[option] ?? pool) : pool);
  if (command === 'amend' && option === '-o' && value === '') return [];
  if (option.startsWith('--')) return random.chance(0.5) ? [`${option}=${value}`] : [option, value];
  return value !== '' && random.chance(0.2) ? [`${option}${value}`] : [option, value];
}

function optionList(random: Random, pool: readonly string[]): string {
  return Array.from({ length: random.between(1, 3) }, () => one(random, pool)).join(',');
}

/** @param named what images are named by: files, or the lists of `--image-opts` */
function operandsOf(random: Random, { operands }: CommandTable, named: Pool): string[] {
  const words = operands.map((pool) => {
    if (pool.includes('data.qcow2') && named === imageOptions) return random.pick(named);
    if (pool === images && random.chance(0.15)) return random.pick(oddFiles);
    if (pool === targets && random.chance(0.08)) return random.pick(oddTargets);
    return random.pick(pool);
  });
  if (random.chance(0.03)) words.pop();
  if (random.chance(0.03)) words.push(random.pick(images));
  return words;
}

function ddOperands(random: Random, named: Pool): string[] {
  const number: Pool = ['0', '1', '3', '10', '2000', '1k', '-1', 'x', ''];
  const words = [
    `if=${random.pick(random.chance(0.85) ? named : oddFiles)}`,
    `of=${random.pick(random.chance(0.9) ? targets : oddTargets)}`,
  ];
  if (random.chance(0.7)) words.push(`bs=${random.pick(['4k', '64k', '1M', '1000', '0', 'x', '4G'])}`);
  if (random.chance(0.5)) words.push(`count=${random.pick(number)}`);
  if (random.chance(0.4)) words.push(`skip=${random.pick(number)}`);
  if (random.chance(0.05)) words.push(random.pick(['seek=1', 'conv=sync', 'bs', '=']));
  if (random.chance(0.05)) words.shift();
  return words;
}

const one = (random: Random, pool: readonly string[]): string => pool[random.below(pool.length)] ?? '';
