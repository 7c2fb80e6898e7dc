/** Which ciphers, modes, IV generators and hashes there are, and the names LUKS and QEMU give them. */
import { getHashes } from 'node:crypto';
import { Qcow2Error } from '../../errors.js';
import type { LuksHeader } from '../../format/luks.js';
import { quote } from '../../format/text.js';

const hashSizes = {
  md5: 16,
  sha1: 20,
  sha224: 28,
  sha256: 32,
  sha384: 48,
  sha512: 64,
  ripemd160: 20,
} as const;
const modes = ['xts', 'cbc', 'ctr', 'ecb'] as const;
const ivGenerators = ['plain', 'plain64', 'essiv'] as const;
const aesBits = [128, 192, 256] as const;

/** A hash that OpenSSL computes for PBKDF2, the anti-forensic splitter or ESSIV. */
export type HashName = keyof typeof hashSizes;
/** Width of one AES key. */
export type AesBits = (typeof aesBits)[number];
export type CipherMode = (typeof modes)[number];

/** What a sector's number becomes before it is used as IV or tweak. */
export type IvSpec = { generator: 'plain' | 'plain64' } | { generator: 'essiv'; hash: HashName };

/** How sectors are encrypted. */
export interface CipherSpec {
  bits: AesBits;
  mode: CipherMode;
  iv: IvSpec;
}

/** The names an image is to be created with, as `qemu-img` takes them in its `encrypt.*` options. */
export interface CipherNames {
  /** `aes-128`, `aes-192` or `aes-256` (default). */
  cipherAlg?: string;
  /** `xts` (default), `cbc`, `ctr` or `ecb`. */
  cipherMode?: string;
  /** `plain`, `plain64` (default) or `essiv`. */
  ivgenAlg?: string;
  /** Hash of `essiv`; `sha256` by default. */
  ivgenHashAlg?: string;
}

/** Bytes of a hash's digest. */
export function hashSize(hash: HashName): number {
  return hashSizes[hash];
}

/** Bytes of the master key; XTS takes two AES keys. */
export function masterKeySize(spec: CipherSpec): number {
  return (spec.bits / 8) * (spec.mode === 'xts' ? 2 : 1);
}

/** @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED` for a hash that is unknown, or that this build of OpenSSL lacks */
export function hashNamed(name: string): HashName {
  const hash = (Object.keys(hashSizes) as HashName[]).find((known) => known === name);
  if (hash === undefined) throw unsupported('hash', name, Object.keys(hashSizes));
  if (!getHashes().includes(hash)) {
    throw new Qcow2Error('ERR_QCOW2_UNSUPPORTED', `The OpenSSL of this Node.js has no ${hash}`, {
      feature: hash,
    });
  }
  return hash;
}

/**
 * How the payload of an image with this LUKS header is encrypted.
 * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED`, naming what is missing
 */
export function cipherOfHeader(header: LuksHeader): CipherSpec {
  if (header.cipherName !== 'aes') throw unsupported('cipher', header.cipherName, ['aes']);
  const parts = /^([^-]+)-([^:]+)(?::(.+))?$/.exec(header.cipherMode);
  if (parts === null) throw unsupported('cipher mode', header.cipherMode, ['xts-plain64']);
  const mode = oneOf('cipher mode', parts[1] ?? '', modes);
  const iv = ivNamed(parts[2] ?? '', parts[3]);
  const keyBits = (header.keyBytes * 8) / (mode === 'xts' ? 2 : 1);
  const bits = aesBits.find((known) => known === keyBits);
  if (bits === undefined) {
    throw unsupported(`${mode} master key of`, `${header.keyBytes} bytes`, aesBits.map(String));
  }
  return { bits, mode, iv };
}

/**
 * The cipher that options ask for.
 * @throws Qcow2Error `ERR_QCOW2_UNSUPPORTED`, naming what is missing
 */
export function cipherOfNames(names: CipherNames): CipherSpec {
  const { cipherAlg = 'aes-256', cipherMode = 'xts', ivgenAlg = 'plain64', ivgenHashAlg = 'sha256' } = names;
  const bits = aesBits.find((known) => cipherAlg === `aes-${known}`);
  if (bits === undefined)
    throw unsupported(
      'cipher',
      cipherAlg,
      aesBits.map((known) => `aes-${known}`),
    );
  const mode = oneOf('cipher mode', cipherMode, modes);
  if (bits === 192 && mode !== 'xts') {
    // 4000 stripes of 24 bytes are no whole number of sectors, which QEMU 7.2 answers with a failed assertion.
    throw new Qcow2Error(
      'ERR_QCOW2_UNSUPPORTED',
      `aes-192 in ${mode} mode makes images that QEMU cannot open`,
      {
        feature: cipherAlg,
      },
    );
  }
  return { bits, mode, iv: ivNamed(ivgenAlg, ivgenHashAlg) };
}

/** The `cipher-mode` field that a LUKS header has for a cipher. */
export function cipherModeField({ mode, iv }: CipherSpec): string {
  return `${mode}-${iv.generator}${iv.generator === 'essiv' ? `:${iv.hash}` : ''}`;
}

function ivNamed(generatorName: string, hashName: string | undefined): IvSpec {
  const generator = oneOf('IV generator', generatorName, ivGenerators);
  if (generator !== 'essiv') return { generator };
  if (hashName === undefined) {
    throw new Qcow2Error(
      'ERR_QCOW2_CORRUPT',
      'The cipher mode of the LUKS header names essiv without its hash',
      {
        feature: 'essiv',
      },
    );
  }
  const hash = hashNamed(hashName);
  if (!aesBits.some((bits) => bits === hashSize(hash) * 8)) {
    // The digest is the key of the AES that encrypts the sector number.
    throw unsupported('hash for essiv', hash, ['md5', 'sha256']);
  }
  return { generator, hash };
}

function oneOf<T extends string>(what: string, name: string, known: readonly T[]): T {
  const found = known.find((one) => one === name);
  if (found === undefined) throw unsupported(what, name, known);
  return found;
}

function unsupported(what: string, name: string, known: readonly string[]): Qcow2Error {
  return new Qcow2Error(
    'ERR_QCOW2_UNSUPPORTED',
    `The ${what} ${quote(name)} is not supported; supported: ${known.join(', ')}`,
    { feature: name },
  );
}
