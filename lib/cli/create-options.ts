/** The options that `create` and `convert` take behind `-o`, and what they mean to the library. */
import type { MeasureOptions } from '../index.js';
import type { CreateOptions, ImageFormat, LuksOptions } from '../options.js';
import { defined } from './defined.js';
import { Failure } from './failure.js';
import type { CreateOption, OptionValues } from './o-options.js';
import type { Secrets } from './objects.js';

const encryptionOptions: readonly CreateOption[] = [
  { name: 'encrypt.format', kind: 'text', help: "Encrypt the image, format choices: 'aes', 'luks'" },
  {
    name: 'encrypt.key-secret',
    kind: 'text',
    help: 'ID of secret providing qcow AES key or LUKS passphrase',
  },
  { name: 'encrypt.cipher-alg', kind: 'text', help: 'Name of encryption cipher algorithm' },
  { name: 'encrypt.cipher-mode', kind: 'text', help: 'Name of encryption cipher mode' },
  { name: 'encrypt.ivgen-alg', kind: 'text', help: 'Name of IV generator algorithm' },
  { name: 'encrypt.ivgen-hash-alg', kind: 'text', help: 'Name of IV generator hash algorithm' },
  { name: 'encrypt.hash-alg', kind: 'text', help: 'Name of encryption hash algorithm' },
  { name: 'encrypt.iter-time', kind: 'number', help: 'Time to spend in PBKDF in milliseconds' },
];

/** In the order in which qemu-img echoes them. */
const qcow2Options: readonly CreateOption[] = [
  {
    name: 'encryption',
    kind: 'switch',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  ...encryptionOptions,
  { name: 'cluster_size', kind: 'size', help: 'qcow2 cluster size', initial: '65536' },
  { name: 'extended_l2', kind: 'switch', help: 'Extended L2 tables', initial: 'off' },
  {
    name: 'preallocation',
    kind: 'text',
    help: 'Preallocation mode (allowed values: off, metadata, falloc, full)',
  },
  {
    name: 'compression_type',
    kind: 'text',
    help: 'Compression method used for image cluster compression',
    initial: 'zlib',
  },
  { name: 'size', kind: 'size', help: 'Virtual disk size' },
  { name: 'compat', kind: 'text', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  { name: 'backing_file', kind: 'text', help: 'File name of a base image' },
  { name: 'backing_fmt', kind: 'text', help: 'Image format of the base image' },
  { name: 'data_file', kind: 'text', help: 'File name of an external data file' },
  {
    name: 'data_file_raw',
    kind: 'switch',
    help: 'The external data file must stay valid as a raw image',
  },
  { name: 'lazy_refcounts', kind: 'switch', help: 'Postpone refcount updates', initial: 'off' },
  {
    name: 'refcount_bits',
    kind: 'number',
    help: 'Width of a reference count entry in bits',
    initial: '16',
  },
  {
    name: 'nocow',
    kind: 'switch',
    help: 'Turn off copy-on-write (valid only on btrfs)',
    ofFile: true,
  },
  {
    name: 'extent_size_hint',
    kind: 'size',
    help: 'Extent size hint for the image file, 0 to disable',
    ofFile: true,
  },
];

const rawOptions: readonly CreateOption[] = [
  { name: 'size', kind: 'size', help: 'Virtual disk size' },
  {
    name: 'nocow',
    kind: 'switch',
    help: 'Turn off copy-on-write (valid only on btrfs)',
    ofFile: true,
  },
  {
    name: 'preallocation',
    kind: 'text',
    help: 'Preallocation mode (allowed values: off, falloc, full)',
    ofFile: true,
  },
  {
    name: 'extent_size_hint',
    kind: 'size',
    help: 'Extent size hint for the image file, 0 to disable',
    ofFile: true,
  },
];

export const createOptionTables: Readonly<Record<ImageFormat, readonly CreateOption[]>> = {
  qcow2: qcow2Options,
  raw: rawOptions,
};

/** What `-o help` prints; without a file name the options of the file underneath are left out. */
export function createOptionsHelp(format: ImageFormat, withFile: boolean): string {
  const table = createOptionTables[format].filter((option) => withFile || option.ofFile !== true);
  const lines = optionHelpLines(table);
  if (withFile) return `Supported options:\n${lines}`;
  return (
    `Supported ${format} options:\n${lines}\nThe protocol level may support further options.\n` +
    'Specify the target filename to include those options.\n'
  );
}

/** One line for each option, by their names. */
export function optionHelpLines(table: readonly CreateOption[]): string {
  return table
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, kind, help }) => `  ${`${name}=<${kindNames[kind]}>`.padEnd(22)} - ${help}\n`)
    .join('');
}

const kindNames = { text: 'str', number: 'num', size: 'size', switch: 'bool (on/off)' } as const;

/**
 * Turns checked options into those of the library, for a qcow2 image.
 * @throws Failure in the words of qemu-img for values and combinations that cannot be
 */
export function qcow2CreateOptions(values: OptionValues, secrets: Secrets): CreateOptions {
  refuseEncryptionAliasTwice(values);
  const chosen = {
    compressionType: choice(values, 'compression_type', 'compression-type', ['zlib', 'zstd']),
    preallocation: choice(values, 'preallocation', 'preallocation', ['off', 'metadata', 'falloc', 'full']),
  };
  const version = compatVersion(values);
  const backing = backingOption(values);
  const encryption = encryptionOption(values, secrets);
  const dataFile = values.text('data_file');
  const options = {
    version,
    clusterSize: clusterSize(values),
    extendedL2: values.switch('extended_l2') ?? false,
    lazyRefcounts: values.switch('lazy_refcounts') ?? false,
    refcountBits: refcountBits(values),
    ...defined({
      ...chosen,
      backing,
      encryption,
      dataFile: dataFile === undefined ? undefined : { name: dataFile, raw: wantsRawDataFile(values) },
    }),
  };
  refuseCombinations(options, values);
  return options;
}

/**
 * Turns checked options into those of a measurement, for a qcow2 image.
 * @throws Failure in the words of qemu-img
 */
export function measureOptions(values: OptionValues, secrets: Secrets): MeasureOptions {
  const preallocation = values.text('preallocation');
  if (preallocation !== undefined && !isPreallocation(preallocation)) {
    throw new Failure(`invalid parameter value: ${preallocation}`);
  }
  const compat = values.text('compat');
  if (compat !== undefined && !['0.10', 'v2', '1.1', 'v3'].includes(compat)) {
    throw new Failure(`Invalid compatibility level: '${compat}'`);
  }
  const size = clusterSize(values);
  const extendedL2 = values.switch('extended_l2') ?? false;
  refuseSmallExtended(extendedL2, size);
  const backing = values.text('backing_file');
  return {
    format: 'qcow2',
    version: compatVersion(values),
    clusterSize: size,
    extendedL2,
    refcountBits: refcountBits(values),
    ...defined({
      preallocation,
      encryption: isLegacyEncryption(values) ? undefined : encryptionOption(values, secrets),
      backing: backing === undefined ? undefined : { name: backing },
    }),
  };
}

type Preallocation = NonNullable<CreateOptions['preallocation']>;

function isPreallocation(value: string): value is Preallocation {
  return ['off', 'metadata', 'falloc', 'full'].includes(value);
}

/**
 * The preallocation of a raw image.
 * @throws Failure in the words of qemu-img
 */
export function rawPreallocation(values: OptionValues): 'off' | 'falloc' | 'full' {
  const value = values.text('preallocation') ?? 'off';
  if (value === 'metadata') throw new Failure('Unsupported preallocation mode: metadata');
  if (value === 'off' || value === 'falloc' || value === 'full') return value;
  throw new Failure(`invalid parameter value: ${value}`);
}

function wantsRawDataFile(values: OptionValues): boolean {
  return values.switch('data_file_raw') ?? false;
}

function compatVersion(values: OptionValues): 2 | 3 {
  const compat = values.text('compat');
  if (compat === '0.10' || compat === 'v2') return 2;
  if (compat === undefined || compat === '1.1' || compat === 'v3') return 3;
  throw new Failure(`Parameter 'version' does not accept value '${compat}'`);
}

function clusterSize(values: OptionValues): number {
  const size = Number(values.number('cluster_size'));
  if (!isPowerOfTwo(size) || size < 512 || size > 2 * 1024 * 1024) {
    throw new Failure('Cluster size must be a power of two between 512 and 2048k');
  }
  return size;
}

export function refcountBits(values: OptionValues): number {
  const bits = Number(values.number('refcount_bits'));
  if (!isPowerOfTwo(bits) || bits > 64) {
    throw new Failure('Refcount width must be a power of two and may not exceed 64 bits');
  }
  return bits;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}

function choice<Word extends string>(
  values: OptionValues,
  name: string,
  shown: string,
  words: readonly Word[],
): Word | undefined {
  const value = values.text(name);
  if (value === undefined) return undefined;
  const word = words.find((candidate) => candidate === value);
  if (word === undefined) throw new Failure(`Parameter '${shown}' does not accept value '${value}'`);
  return word;
}

function backingOption(values: OptionValues): CreateOptions['backing'] {
  const name = values.text('backing_file');
  const format = choice(values, 'backing_fmt', 'backing-fmt', ['qcow2', 'raw']);
  if (name !== undefined) return { name, ...(format === undefined ? {} : { format }) };
  if (format !== undefined) throw new Failure('Backing format cannot be used without backing file');
  return undefined;
}

/** AES takes no room of its own, so that it can be measured without a secret. */
function isLegacyEncryption(values: OptionValues): boolean {
  return values.switch('encryption') === true && !values.has('encrypt.format');
}

function refuseEncryptionAliasTwice(values: OptionValues): void {
  if (values.has('encrypt.format') && values.switch('encryption') === true) {
    throw new Failure("'encrypt.format' and its alias 'encryption' can't be used at the same time");
  }
}

function encryptionOption(values: OptionValues, secrets: Secrets): LuksOptions | undefined {
  const format = choice(values, 'encrypt.format', 'format', ['aes', 'luks']);
  const given = encryptionOptions.some(({ name }) => values.has(name));
  if (format === undefined && values.switch('encryption') !== true) {
    if (given) throw new Failure("Parameter 'encrypt.format' is missing");
    return undefined;
  }
  const id = values.text('encrypt.key-secret');
  if (id === undefined) throw new Failure("Parameter 'encrypt.key-secret' is required for cipher");
  const secret = secrets.get(id);
  if (format !== 'luks') {
    throw new Failure('New images are not encrypted with the broken AES format; use encrypt.format=luks');
  }
  const iterTime = values.number('encrypt.iter-time');
  return {
    secret,
    ...defined({
      cipherAlg: encryptionChoice(values, 'cipher-alg', ['aes-128', 'aes-192', 'aes-256']),
      cipherMode: encryptionChoice(values, 'cipher-mode', ['xts', 'cbc', 'ecb']),
      ivgenAlg: encryptionChoice(values, 'ivgen-alg', ['plain', 'plain64', 'essiv']),
      ivgenHashAlg: encryptionChoice(values, 'ivgen-hash-alg', hashes),
      hashAlg: encryptionChoice(values, 'hash-alg', hashes),
      iterTimeMs: iterTime === undefined ? undefined : Number(iterTime),
    }),
  };
}

const hashes = ['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160'] as const;

function encryptionChoice<Word extends string>(
  values: OptionValues,
  name: string,
  words: readonly Word[],
): Word | undefined {
  return choice(values, `encrypt.${name}`, name, words);
}

type Chosen = CreateOptions & { version: 2 | 3; clusterSize: number };

const needsVersion3 = '1.1 and above (use version=v3 or greater)';

function refuseCombinations(options: Chosen, values: OptionValues): void {
  const { backing, dataFile, extendedL2 = false, preallocation = 'off' } = options;
  if (dataFile === undefined && wantsRawDataFile(values))
    throw new Failure('data-file-raw requires data-file');
  if (backing !== undefined && dataFile?.raw === true) {
    throw new Failure('Backing file and data-file-raw cannot be used at the same time');
  }
  if (options.version < 3) refuseBeyondVersion2(options);
  refuseSmallExtended(extendedL2, options.clusterSize);
  if (backing !== undefined && preallocation !== 'off' && !extendedL2) {
    throw new Failure(
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    );
  }
}

function refuseSmallExtended(extendedL2: boolean, clusterSize: number): void {
  if (!extendedL2 || clusterSize >= 16384) return;
  throw new Failure('Extended L2 entries are only supported with cluster sizes of at least 16384 bytes');
}

function refuseBeyondVersion2(options: Chosen): void {
  if (options.dataFile !== undefined) {
    throw new Failure(`External data files are only supported with compatibility level ${needsVersion3}`);
  }
  if (options.extendedL2 === true) {
    throw new Failure(`Extended L2 entries are only supported with compatibility level ${needsVersion3}`);
  }
  if (options.lazyRefcounts === true) {
    throw new Failure(`Lazy refcounts only supported with compatibility level ${needsVersion3}`);
  }
  if (options.refcountBits !== 16) {
    throw new Failure(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)',
    );
  }
  if (options.compressionType === 'zstd') {
    throw new Failure(
      `Non-zlib compression type is only supported with compatibility level ${needsVersion3}`,
    );
  }
}
