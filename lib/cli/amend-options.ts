/** The options that `amend` takes behind `-o`, and what they mean to the library. */
import { createOptionTables, optionHelpLines, refcountBits } from './create-options.js';
import { defined } from './defined.js';
import { Failure } from './failure.js';
import type { AddKeyOptions, AmendOptions, RemoveKeyOptions } from '../index.js';
import { OptionValues } from './o-options.js';
import type { CreateOption } from './o-options.js';
import type { Secrets } from './objects.js';

const keyOptions: readonly CreateOption[] = [
  { name: 'encrypt.state', kind: 'text', help: 'Select new state of affected keyslots (active/inactive)' },
  {
    name: 'encrypt.new-secret',
    kind: 'text',
    help: 'New secret to set in the matching keyslots. Empty string to erase',
  },
  { name: 'encrypt.old-secret', kind: 'text', help: 'Select all keyslots that match this password' },
  { name: 'encrypt.keyslot', kind: 'number', help: 'Select a single keyslot to modify explicitly' },
  { name: 'encrypt.iter-time', kind: 'number', help: 'Time to spend in PBKDF in milliseconds' },
];

const sharedWithCreate = [
  'size',
  'compat',
  'backing_file',
  'backing_fmt',
  'data_file',
  'data_file_raw',
  'lazy_refcounts',
  'refcount_bits',
];

/** What an option is before it is given here is what the image has, not what new images have. */
const table: readonly CreateOption[] = [
  ...createOptionTables.qcow2
    .filter(({ name }) => sharedWithCreate.includes(name))
    .map(({ name, kind, help }) => ({ name, kind, help })),
  ...keyOptions,
];

/** What `-o help` prints. */
export function amendOptionsHelp(): string {
  return `Amend options for 'qcow2':\n${optionHelpLines(table)}`;
}

/** @throws Failure in the words of qemu-img */
export function readAmendOptions(list: string): OptionValues {
  const values = new OptionValues(table);
  try {
    values.addList(list);
  } catch (error) {
    const name = error instanceof Failure ? /^Invalid parameter '(.*)'$/.exec(error.message)?.[1] : undefined;
    if (name === undefined || !createOptionTables.qcow2.some((option) => option.name === name)) throw error;
    throw new Failure(`Invalid parameter '${name}'`, {
      hint: 'This option is only supported for image creation',
      cause: error,
    });
  }
  return values;
}

/** What of an image decides what it can become. */
export interface Amended {
  version: 2 | 3;
  refcountBits: number;
  /** Null without one. */
  dataFile: { raw: boolean } | null;
  encrypted: boolean;
  backing: { name: string; format: string | null } | null;
}

/**
 * Turns checked options into those of the library.
 * @throws Failure in the words of qemu-img for values and combinations that cannot be
 */
export function amendOptions(values: OptionValues, image: Amended, program: string): AmendOptions {
  if (hasKeyOptions(values) && !image.encrypted) {
    throw new Failure("Can't amend encryption options - encryption not present");
  }
  const version = versionOption(values);
  if (values.has('data_file') && image.dataFile === null) {
    throw new Failure('data-file can only be set for images that use an external data file');
  }
  const raw = values.switch('data_file_raw');
  if (raw === true && image.dataFile?.raw !== true) {
    throw new Failure('data-file-raw cannot be set on existing images');
  }
  const bits = values.has('refcount_bits') ? refcountBits(values) : undefined;
  const isVersion2 = (version ?? image.version) === 2;
  if (isVersion2 && bits !== undefined && bits !== 16) {
    throw new Failure(
      'Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
    );
  }
  if (namesOtherBacking(values, image)) {
    throw new Failure('Cannot amend the backing file', { hint: `You can use '${program} rebase' instead.` });
  }
  const lazyRefcounts = values.switch('lazy_refcounts');
  if (isVersion2 && lazyRefcounts === true) {
    throw new Failure(
      'Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)',
    );
  }
  const size = values.number('size');
  if (size !== undefined && size % 512n !== 0n) throw new Failure('The new size must be a multiple of 512');
  if (isVersion2 && (bits ?? image.refcountBits) !== 16)
    throw new Failure('compat=0.10 requires refcount_bits=16');
  return defined({
    version,
    refcountBits: bits,
    lazyRefcounts,
    dataFile: values.text('data_file'),
    dataFileRaw: raw === false && image.dataFile !== null ? (false as const) : undefined,
    size: size === undefined ? undefined : Number(size),
  });
}

/** Name and format of the backing file may be given, but only both together and as they are. */
function namesOtherBacking(values: OptionValues, { backing }: Amended): boolean {
  const name = values.text('backing_file');
  const format = values.text('backing_fmt');
  if (name === undefined && format === undefined) return false;
  return name !== backing?.name || format !== (backing?.format ?? undefined);
}

function versionOption(values: OptionValues): 2 | 3 | undefined {
  const compat = values.text('compat');
  if (compat === undefined) return undefined;
  if (compat === '0.10' || compat === 'v2') return 2;
  if (compat === '1.1' || compat === 'v3') return 3;
  throw new Failure(`Unknown compatibility level ${compat}`);
}

function hasKeyOptions(values: OptionValues): boolean {
  return keyOptions.some(({ name }) => values.has(name));
}

/** A change of the keys: one to add, or some to destroy; null when none is asked for. */
export type KeyChange = { add: AddKeyOptions } | { remove: RemoveKeyOptions } | null;

/**
 * @param unlock the secret that the image was opened with
 * @throws Failure in the words of qemu-img
 */
export function keyChange(
  values: OptionValues,
  secrets: Secrets,
  { unlock, force }: { unlock: Uint8Array | undefined; force: boolean },
): KeyChange {
  if (!hasKeyOptions(values)) return null;
  const state = values.text('encrypt.state');
  if (state === undefined) throw new Failure("Parameter 'state' is missing");
  const newSecret = values.text('encrypt.new-secret');
  const oldSecret = values.text('encrypt.old-secret');
  const slot = slotOption(values);
  const iterTime = values.number('encrypt.iter-time');
  if (state === 'active') {
    if (newSecret === undefined) throw new Failure("'new-secret' is required to activate a keyslot");
    if (oldSecret !== undefined) throw new Failure("'old-secret' must not be given when activating keyslots");
    if (unlock === undefined) throw new Failure("Parameter 'encrypt.key-secret' is required for cipher");
    const iterTimeMs = iterTime === undefined ? undefined : Number(iterTime);
    return { add: { unlock, secret: secrets.get(newSecret), ...defined({ slot, iterTimeMs }) } };
  }
  if (state !== 'inactive') throw new Failure(`Parameter 'state' does not accept value '${state}'`);
  if (newSecret !== undefined) throw new Failure("'new-secret' must not be given when erasing keyslots");
  if (iterTime !== undefined) throw new Failure("'iter-time' must not be given when erasing keyslots");
  if (slot !== undefined) return { remove: { slot, force } };
  if (oldSecret !== undefined) return { remove: { secret: secrets.get(oldSecret), force } };
  throw new Failure(
    'To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given',
  );
}

function slotOption(values: OptionValues): number | undefined {
  const slot = values.number('encrypt.keyslot');
  if (slot === undefined) return undefined;
  if (slot > 7n) throw new Failure(`Invalid keyslot ${slot} specified, must be between 0 and 7`);
  return Number(slot);
}
