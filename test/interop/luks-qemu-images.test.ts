/** Images that qemu-img encrypted: what QEMU wrote is decrypted here, and the other way round. */
import { openSync, closeSync, readSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { LuksHeader } from '../../lib/format/luks.js';
import { cipherOfHeader } from '../../lib/io/encryption/algorithms.js';
import { legacyAesCipher } from '../../lib/io/encryption/legacy-aes.js';
import type { SectorCipher } from '../../lib/io/encryption/crypt-sector.js';
import { unlockLuks } from '../../lib/io/encryption/luks-unlock.js';
import {
  hostOffsetOf,
  luksArea,
  qemuCreate,
  qemuInfo,
  qemuIo,
  qemuReadAll,
  qemuWriteRandom,
} from '../support/encrypted-image.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const secret = 'hunter2 ✓';
const size = 1 << 20;

/**
 * Has QEMU write two stretches, the later one first so that guest and host offsets differ; checks that they decrypt to
 * what was written; then puts own data in their place and checks that QEMU reads it.
 * @param firstSector what the cipher takes as sector number of a stretch
 */
function exchange(
  path: string,
  password: string,
  cipher: SectorCipher,
  firstSector: (guest: number, host: number) => number,
): void {
  const written = [
    { at: 0x90000, bytes: qemuWriteRandom(path, password, 1, 0x90000, 0x10000) },
    { at: 0x21a00, bytes: qemuWriteRandom(path, password, 2, 0x21a00, 0x600) },
  ];
  const content = Buffer.alloc(size);
  const file = openSync(path, 'r+');
  try {
    for (const { at, bytes } of written) {
      const host = hostOffsetOf(path, at);
      const stored = Buffer.alloc(bytes.length);
      readSync(file, stored, 0, stored.length, host);
      cipher.decrypt(stored, firstSector(at, host));
      expect(stored.equals(bytes)).toBe(true);

      const own = pattern(at, bytes.length);
      own.copy(content, at);
      cipher.encrypt(own, firstSector(at, host));
      writeSync(file, own, 0, own.length, host);
    }
  } finally {
    closeSync(file);
  }
  expect(qemuReadAll(path, password).equals(content)).toBe(true);
}

function asQemuReports(header: LuksHeader): object {
  return {
    uuid: header.uuid,
    'cipher-alg': `${header.cipherName}-${cipherOfHeader(header).bits}`,
    'cipher-mode': cipherOfHeader(header).mode,
    'ivgen-alg': cipherOfHeader(header).iv.generator,
    'hash-alg': header.hashSpec,
    'payload-offset': header.payloadOffset,
    'master-key-iters': header.masterKeyIterations,
    slots: header.slots.map(({ active, iterations, keyMaterialOffset, stripes }) => ({
      active,
      'key-offset': keyMaterialOffset,
      ...(active ? { iters: iterations, stripes } : {}),
    })),
  };
}

const byHost = (_guest: number, host: number): number => host / 512;
const byGuest = (guest: number): number => guest / 512;

describe('LUKS images made by qemu-img', () => {
  it.each([
    'encrypt.cipher-alg=aes-256',
    'encrypt.cipher-alg=aes-128',
    'encrypt.cipher-alg=aes-192',
    'encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc',
    'encrypt.cipher-alg=aes-256,encrypt.cipher-mode=cbc',
    'encrypt.cipher-alg=aes-128,encrypt.cipher-mode=ecb',
    'encrypt.cipher-alg=aes-256,encrypt.cipher-mode=ecb',
    'encrypt.cipher-alg=aes-128,encrypt.cipher-mode=ctr',
    'encrypt.cipher-alg=aes-256,encrypt.cipher-mode=ctr',
    'encrypt.ivgen-alg=plain',
    'encrypt.ivgen-alg=essiv',
    'encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv',
    'encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=md5',
    'encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv',
    'encrypt.hash-alg=md5',
    'encrypt.hash-alg=sha1',
    'encrypt.hash-alg=sha224',
    'encrypt.hash-alg=sha384',
    'encrypt.hash-alg=sha512',
    'encrypt.hash-alg=ripemd160',
    'compat=v2,encrypt.cipher-alg=aes-128',
  ])(
    'exchange data: %s',
    async (options) => {
      const luks = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1';
      qemuCreate(temp('x'), secret, `${luks},${options}`, size);
      const { cipher, header, slot } = await unlockLuks(luksArea(temp('x')), secret);
      expect(slot).toBe(0);
      expect(qemuInfo(temp('x'))).toMatchObject({
        'format-specific': { data: { encrypt: asQemuReports(header) } },
      });
      exchange(temp('x'), secret, cipher, byHost);
    },
    120_000,
  );
});

describe('legacy AES images', () => {
  it.each(['hunter2', '16 bytes exactly', 'longer than the sixteen that count', 'ключ', ''])(
    'exchange data under the password "%s"',
    (password) => {
      qemuCreate(temp('x'), password, 'encrypt.format=aes,encrypt.key-secret=s', size);
      exchange(temp('x'), password, legacyAesCipher(password), byGuest);
    },
  );

  it('are noise to another password, here as in QEMU', () => {
    qemuCreate(temp('x'), 'right', 'encrypt.format=aes,encrypt.key-secret=s', size);
    qemuIo(temp('x'), 'right', 'write -P 7 0 512');
    const noise = Buffer.alloc(512, 7);
    legacyAesCipher('right').encrypt(noise, 0);
    legacyAesCipher('wrong').decrypt(noise, 0);
    expect(qemuReadAll(temp('x'), 'wrong').subarray(0, 512).equals(noise)).toBe(true);
  });
});
