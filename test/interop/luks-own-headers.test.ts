/** LUKS headers made here: QEMU opens images that carry them, with every secret they hold. */
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createLuksHeader, type CreatedLuks } from '../../lib/io/encryption/luks-create.js';
import { addLuksKey, removeLuksKey, type LuksChange } from '../../lib/io/encryption/luks-keys.js';
import { unlockLuks } from '../../lib/io/encryption/luks-unlock.js';
import {
  allocatedGuestCluster,
  clusterSize,
  luksArea,
  minimalImage,
  qemuAmend,
  qemuCheck,
  qemuInfo,
  qemuIo,
} from '../support/encrypted-image.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const secret = 'hunter2 ✓';
const guestOffset = allocatedGuestCluster * clusterSize;

/** Puts an encrypted cluster where QEMU will look for it; QEMU reads it, overwrites half, and that decrypts here. */
function exchange(path: string, made: CreatedLuks, hostOffset: number): void {
  const file = openSync(path, 'r+');
  try {
    const cluster = Buffer.alloc(clusterSize, 0x5a);
    made.cipher.encrypt(cluster, hostOffset / 512);
    writeSync(file, cluster, 0, cluster.length, hostOffset);
    const written = pattern(7, clusterSize / 2);
    writeFileSync(temp('in'), written);
    qemuIo(
      path,
      secret,
      `read -P 0x5a ${guestOffset} ${clusterSize}`,
      `write -s ${temp('in')} ${guestOffset + clusterSize / 2} ${clusterSize / 2}`,
      `read -P 0x5a ${guestOffset} ${clusterSize / 2}`,
    );
    readSync(file, cluster, 0, cluster.length, hostOffset);
    made.cipher.decrypt(cluster, hostOffset / 512);
    expect(cluster.subarray(0, clusterSize / 2).equals(Buffer.alloc(clusterSize / 2, 0x5a))).toBe(true);
    expect(cluster.subarray(clusterSize / 2).equals(written)).toBe(true);
  } finally {
    closeSync(file);
  }
}

function apply(area: Uint8Array, changes: LuksChange[]): void {
  for (const { offset, bytes } of changes) area.set(bytes, offset);
}

describe('LUKS headers made here', () => {
  it.each([
    {},
    { cipherAlg: 'aes-128' },
    { cipherAlg: 'aes-192' },
    ...['aes-128', 'aes-256'].flatMap((cipherAlg) =>
      ['cbc', 'ctr', 'ecb'].map((cipherMode) => ({ cipherAlg, cipherMode })),
    ),
    { ivgenAlg: 'plain' },
    { ivgenAlg: 'essiv' },
    { cipherMode: 'cbc', ivgenAlg: 'plain' },
    { cipherMode: 'cbc', ivgenAlg: 'essiv' },
    { cipherMode: 'cbc', ivgenAlg: 'essiv', ivgenHashAlg: 'md5' },
    { cipherAlg: 'aes-128', cipherMode: 'cbc', ivgenAlg: 'essiv' },
    ...['md5', 'sha1', 'sha224', 'sha384', 'sha512', 'ripemd160'].map((hashAlg) => ({ hashAlg })),
  ])('open in QEMU: %j', async (options) => {
    const made = await createLuksHeader({ ...options, secret, iterTimeMs: 1 });
    const { image, hostOffset } = minimalImage(made.headerArea);
    writeFileSync(temp('x'), image);
    exchange(temp('x'), made, hostOffset);
    expect(qemuCheck(temp('x'), secret)).toContain('No errors');
  });

  it.each(['plain', 'plain64', 'essiv'])('%s agrees with QEMU past sector 2^32', async (ivgenAlg) => {
    const made = await createLuksHeader({ secret, ivgenAlg, iterTimeMs: 1 });
    // The number of the cluster's first sector does not fit 32 bits; the file is sparse.
    const { image, hostOffset } = minimalImage(made.headerArea, 2 ** 41 + 17 * clusterSize);
    writeFileSync(temp('x'), image);
    exchange(temp('x'), made, hostOffset);
  });

  it('take up to eight secrets that QEMU knows, and lose those that are removed', async () => {
    const made = await createLuksHeader({ secret: 'secret 0', cipherAlg: 'aes-128', iterTimeMs: 1 });
    const area = made.headerArea;
    for (let slot = 1; slot < 8; slot += 1) {
      apply(area, (await addLuksKey(area, made.masterKey, `secret ${slot}`, { iterTimeMs: 1 })).changes);
    }
    const { image, hostOffset } = minimalImage(area);
    const cluster = Buffer.alloc(clusterSize, 0x5a);
    made.cipher.encrypt(cluster, hostOffset / 512);
    cluster.copy(image, hostOffset);
    writeFileSync(temp('x'), image);
    const read = `read -P 0x5a ${guestOffset} ${clusterSize}`;
    for (let slot = 0; slot < 8; slot += 1) qemuIo(temp('x'), `secret ${slot}`, read);

    apply(area, removeLuksKey(area, 5));
    image.set(area, 5 * clusterSize);
    writeFileSync(temp('x'), image);
    expect(() => qemuIo(temp('x'), 'secret 5', read)).toThrow(/Invalid password/);
    for (const slot of [0, 1, 2, 3, 4, 6, 7]) qemuIo(temp('x'), `secret ${slot}`, read);
    const slots = [true, true, true, true, true, false, true, true].map((active) => ({ active }));
    expect(qemuInfo(temp('x'))).toMatchObject({ 'format-specific': { data: { encrypt: { slots } } } });
  });

  it('have their keys changed by qemu-img amend, and images of QEMU by this package', async () => {
    const made = await createLuksHeader({ secret, cipherAlg: 'aes-128', iterTimeMs: 1 });
    const { image } = minimalImage(made.headerArea);
    writeFileSync(temp('x'), image);
    qemuAmend(temp('x'), secret, 'by QEMU', 'encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=1');
    const opened = await unlockLuks(luksArea(temp('x')), 'by QEMU');
    expect(opened.slot).toBe(1);
    expect(Buffer.from(opened.masterKey).equals(made.masterKey)).toBe(true);

    qemuAmend(temp('x'), 'by QEMU', '', 'encrypt.state=inactive,encrypt.keyslot=0');
    const area = luksArea(temp('x'));
    await expect(unlockLuks(area, secret)).rejects.toMatchObject({ code: 'ERR_QCOW2_SECRET' });
    const added = await addLuksKey(area, opened.masterKey, 'by us', { iterTimeMs: 1 });
    expect(added.slot).toBe(0);
    apply(area, added.changes);
    apply(area, removeLuksKey(area, 1));
    image.set(area, 5 * clusterSize);
    writeFileSync(temp('x'), image);
    qemuIo(temp('x'), 'by us', 'read -P 0 0 64k');
    expect(() => qemuIo(temp('x'), 'by QEMU', 'read 0 64k')).toThrow(/Invalid password/);
  }, 120_000);
});
