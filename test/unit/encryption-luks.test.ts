import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Qcow2Error, type Qcow2ErrorCode } from '../../lib/errors.js';
import { create, MemoryStorage, open } from '../../lib/index.js';
import { encodeLuksHeader, parseLuksHeader } from '../../lib/format/luks.js';
import { legacyAesCipher } from '../../lib/io/encryption/legacy-aes.js';
import { createLuksHeader, luksAreaSize } from '../../lib/io/encryption/luks-create.js';
import { addLuksKey, removeLuksKey, type LuksChange } from '../../lib/io/encryption/luks-keys.js';
import { digestMasterKey, sealSlot } from '../../lib/io/encryption/luks-slot.js';
import { unlockLuks } from '../../lib/io/encryption/luks-unlock.js';
import { allocationsDuring } from '../hostile/allocations.js';
import { pattern } from '../support/pattern.js';

const secret = 'correct horse';
/** Small and quick: the shortest key, as few iterations as there may be. */
const quick = { secret, cipherAlg: 'aes-128', cipherMode: 'cbc', iterTimeMs: 0.01 };

function apply(area: Uint8Array, changes: LuksChange[]): Uint8Array {
  const changed = Uint8Array.from(area);
  for (const { offset, bytes } of changes) changed.set(bytes, offset);
  return changed;
}

async function errorOf(work: () => unknown): Promise<Qcow2Error> {
  try {
    await work();
  } catch (error) {
    if (error instanceof Qcow2Error) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

async function slotOpenedBy(area: Uint8Array, tried: string): Promise<number | Qcow2ErrorCode> {
  try {
    return (await unlockLuks(area, tried)).slot;
  } catch (error) {
    if (error instanceof Qcow2Error) return error.code;
    throw error;
  }
}

describe('createLuksHeader', () => {
  it('makes an area that its secret opens, with the same master key and cipher', async () => {
    const made = await createLuksHeader({ secret, iterTimeMs: 1 });
    expect(made.headerArea.length).toBe(2_068_480);
    expect(made.slot).toBe(0);
    expect(made.header).toEqual(parseLuksHeader(made.headerArea));
    const opened = await unlockLuks(made.headerArea, Buffer.from(secret));
    expect(opened.header).toEqual(made.header);
    expect(Buffer.from(opened.masterKey).equals(made.masterKey)).toBe(true);
    const buffer = pattern(1, 4096);
    made.cipher.encrypt(buffer, 9);
    expect(buffer.equals(pattern(1, 4096))).toBe(false);
    opened.cipher.decrypt(buffer, 9);
    expect(buffer.equals(pattern(1, 4096))).toBe(true);
  });

  it('chooses what QEMU chooses where nothing is said', async () => {
    const { header } = await createLuksHeader({ secret, iterTimeMs: 1 });
    expect(header).toMatchObject({
      cipherName: 'aes',
      cipherMode: 'xts-plain64',
      hashSpec: 'sha256',
      keyBytes: 64,
    });
    const essiv = await createLuksHeader({ ...quick, ivgenAlg: 'essiv' });
    expect(essiv.header.cipherMode).toBe('cbc-essiv:sha256');
  });

  it('makes another key, salt and uuid each time', async () => {
    const [one, two] = await Promise.all([createLuksHeader(quick), createLuksHeader(quick)]);
    expect(Buffer.from(one.masterKey).equals(two.masterKey)).toBe(false);
    expect(Buffer.from(one.header.masterKeySalt).equals(two.header.masterKeySalt)).toBe(false);
    expect(one.header.uuid).not.toBe(two.header.uuid);
  });

  it('takes more iterations for more time, and never fewer than 1000', async () => {
    const none = await createLuksHeader(quick);
    expect(none.header.masterKeyIterations).toBe(1000);
    expect(none.header.slots[0]?.iterations).toBeGreaterThanOrEqual(1000);
    const some = await createLuksHeader({ ...quick, iterTimeMs: 200 });
    const iterations = some.header.slots[0]?.iterations ?? 0;
    expect(iterations).toBeGreaterThan(10_000);
    const ratio = iterations / some.header.masterKeyIterations;
    // The digest gets an eighth of the time; the two are measured one after the other.
    expect(ratio).toBeGreaterThan(2);
    expect(ratio).toBeLessThan(32);
  });

  it.each([
    ['cipherAlg', 'serpent-256'],
    ['cipherAlg', 'twofish-256'],
    ['cipherAlg', 'cast5-128'],
    ['cipherAlg', 'aes-512'],
    ['cipherMode', 'gcm'],
    ['ivgenAlg', 'benbi'],
    ['hashAlg', 'whirlpool'],
    ['hashAlg', 'toString'],
  ])('names the %s it does not know: %s', async (option, name) => {
    const error = await errorOf(() => createLuksHeader({ ...quick, [option]: name }));
    expect(error).toMatchObject({ code: 'ERR_QCOW2_UNSUPPORTED', feature: name });
    expect(error.message).toContain(name);
  });

  it('refuses what QEMU could not open: hashes of another size for essiv, aes-192 outside XTS', async () => {
    for (const ivgenHashAlg of ['sha1', 'sha224', 'sha384', 'sha512', 'ripemd160']) {
      const error = await errorOf(() => createLuksHeader({ ...quick, ivgenAlg: 'essiv', ivgenHashAlg }));
      expect(error).toMatchObject({ code: 'ERR_QCOW2_UNSUPPORTED', feature: ivgenHashAlg });
    }
    const error = await errorOf(() => createLuksHeader({ ...quick, cipherAlg: 'aes-192' }));
    expect(error).toMatchObject({ code: 'ERR_QCOW2_UNSUPPORTED', feature: 'aes-192' });
  });

  it.each([0, -1, NaN, Infinity, 1e9])('refuses %s ms', async (iterTimeMs) => {
    await expect(createLuksHeader({ ...quick, iterTimeMs })).rejects.toMatchObject({
      code: 'ERR_OUT_OF_RANGE',
    });
  });

  it('has the size that luksAreaSize foretells', async () => {
    expect(luksAreaSize({})).toBe(2_068_480);
    expect((await createLuksHeader(quick)).headerArea.length).toBe(luksAreaSize(quick));
  });
});

describe('unlockLuks', () => {
  it('tells a wrong and a missing secret, without repeating it', async () => {
    const { headerArea } = await createLuksHeader(quick);
    const wrong = await errorOf(() => unlockLuks(headerArea, 'battery staple'));
    expect(wrong.code).toBe('ERR_QCOW2_SECRET');
    expect(wrong.message).not.toContain('battery');
    expect(await errorOf(() => unlockLuks(headerArea, undefined))).toMatchObject({
      code: 'ERR_QCOW2_SECRET',
    });
  });

  it('takes any bytes as secret: none at all, UTF-8, binary', async () => {
    for (const odd of ['', 'pässwörd 🔑', Uint8Array.from([0, 255, 0, 128])]) {
      const { headerArea, masterKey } = await createLuksHeader({ ...quick, secret: odd });
      expect(Buffer.from((await unlockLuks(headerArea, odd)).masterKey).equals(masterKey)).toBe(true);
    }
  });

  it('leaves the area and the secret as they were', async () => {
    const { headerArea } = await createLuksHeader(quick);
    const [area, bytes] = [Uint8Array.from(headerArea), Buffer.from(secret)];
    await unlockLuks(area, bytes);
    expect(Buffer.from(area).equals(headerArea)).toBe(true);
    expect(bytes.toString()).toBe(secret);
  });

  it('stops at once where an image wants more iterations than allowed', async () => {
    const { headerArea } = await createLuksHeader(quick);
    for (const at of [164, 208 + 4]) {
      const greedy = Buffer.from(headerArea);
      greedy.writeUInt32BE(0xffffffff, at);
      const start = performance.now();
      const error = await errorOf(() => unlockLuks(greedy, secret));
      expect(performance.now() - start).toBeLessThan(500);
      expect(error.code).toBe('ERR_QCOW2_UNSUPPORTED');
      expect(error.message).toMatch(/slots 0 to 0 takes 429496\d+ .* 100000000 allowed.*maxIterations/);
    }
    const { masterKeyIterations, slots } = parseLuksHeader(headerArea);
    const needed = masterKeyIterations + (slots[0]?.iterations ?? 0);
    await expect(unlockLuks(headerArea, secret, { maxIterations: needed })).resolves.toMatchObject({
      slot: 0,
    });
    const tight = await errorOf(() => unlockLuks(headerArea, secret, { maxIterations: needed - 1 }));
    expect(tight.code).toBe('ERR_QCOW2_UNSUPPORTED');
  });

  it('counts the iterations of all slots it tries, but not of those behind the right one', async () => {
    const first = await createLuksHeader(quick);
    const { changes } = await addLuksKey(first.headerArea, first.masterKey, 'second', { iterTimeMs: 50 });
    const area = apply(first.headerArea, changes);
    const { slots, masterKeyIterations } = parseLuksHeader(area);
    const maxIterations = (slots[0]?.iterations ?? 0) + masterKeyIterations + 100;
    await expect(unlockLuks(area, secret, { maxIterations })).resolves.toMatchObject({ slot: 0 });
    expect(await errorOf(() => unlockLuks(area, 'second', { maxIterations }))).toMatchObject({
      code: 'ERR_QCOW2_UNSUPPORTED',
    });
  });

  it.each([-1, NaN, 2 ** 31])('refuses %s as limit', async (maxIterations) => {
    const { headerArea } = await createLuksHeader(quick);
    await expect(unlockLuks(headerArea, secret, { maxIterations })).rejects.toMatchObject({
      code: 'ERR_OUT_OF_RANGE',
    });
  });

  it.each<[number, string, string, string]>([
    [8, 'serpent', 'serpent', 'ERR_QCOW2_UNSUPPORTED'],
    [8, 'twofish', 'twofish', 'ERR_QCOW2_UNSUPPORTED'],
    [8, 'cast5', 'cast5', 'ERR_QCOW2_UNSUPPORTED'],
    [40, 'lrw-benbi', 'lrw', 'ERR_QCOW2_UNSUPPORTED'],
    [40, 'cbc-benbi', 'benbi', 'ERR_QCOW2_UNSUPPORTED'],
    [40, 'cbc', 'cbc', 'ERR_QCOW2_UNSUPPORTED'],
    [40, 'cbc-essiv', 'essiv', 'ERR_QCOW2_CORRUPT'],
    [40, 'cbc-essiv:sha1', 'sha1', 'ERR_QCOW2_UNSUPPORTED'],
    // Half of 16 bytes for each of XTS's two keys.
    [40, 'xts-plain64', '16 bytes', 'ERR_QCOW2_UNSUPPORTED'],
    [72, 'whirlpool', 'whirlpool', 'ERR_QCOW2_UNSUPPORTED'],
  ])('refuses byte %i saying %s', async (at, text, feature, code) => {
    const { headerArea } = await createLuksHeader(quick);
    const area = Buffer.from(headerArea);
    area.fill(0, at, at + 32).write(text, at);
    expect(await errorOf(() => unlockLuks(area, secret))).toMatchObject({ code, feature });
  });

  it('reads key material that fills no whole number of sectors, as of aes-192 in CBC mode', async () => {
    const masterKey = pattern(2, 24);
    const salt = pattern(3, 32);
    const slots = parseLuksHeader((await createLuksHeader({ secret, iterTimeMs: 0.01 })).headerArea).slots;
    const header = {
      ...{ cipherName: 'aes', cipherMode: 'cbc-plain64', hashSpec: 'sha256', keyBytes: 24 },
      ...{ masterKeySalt: salt, masterKeyIterations: 1000, payloadOffset: 2_068_480, uuid: '', slots },
      masterKeyDigest: await digestMasterKey(masterKey, salt, 1000, 'sha256'),
    };
    const { slot, material } = await sealSlot(header, 4096, masterKey, Buffer.from(secret), 0.01);
    expect(material.length).toBe(188 * 512);
    header.slots[0] = slot;
    const area = apply(new Uint8Array(header.payloadOffset), [
      { offset: 0, bytes: encodeLuksHeader(header) },
      { offset: 4096, bytes: material },
    ]);
    expect(Buffer.from((await unlockLuks(area, secret)).masterKey).equals(masterKey)).toBe(true);
  });

  it('gives the right key or a Qcow2Error for any damage to the header', async () => {
    const { headerArea, masterKey } = await createLuksHeader(quick);
    const change = fc.record({ at: fc.nat(591), byte: fc.nat(255) });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
        const area = Uint8Array.from(headerArea);
        for (const { at, byte } of changes) area[at] = byte;
        try {
          const opened = await unlockLuks(area, secret, { maxIterations: 20_000 });
          expect(Buffer.from(opened.masterKey).equals(masterKey)).toBe(true);
        } catch (error) {
          if (!(error instanceof Qcow2Error)) throw error;
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('key slots', () => {
  it('hold eight secrets, each of which opens the image until it is removed', async () => {
    const { headerArea, masterKey } = await createLuksHeader(quick);
    let area: Uint8Array = headerArea;
    const secrets = [secret, ...Array.from({ length: 7 }, (_, index) => `secret ${index + 1}`)];
    for (const [index, added] of secrets.entries()) {
      if (index === 0) continue;
      const { slot, changes } = await addLuksKey(area, masterKey, added, { iterTimeMs: 0.01 });
      expect(slot).toBe(index);
      area = apply(area, changes);
    }
    for (const [index, one] of secrets.entries()) expect(await slotOpenedBy(area, one)).toBe(index);
    expect(await errorOf(() => addLuksKey(area, masterKey, 'ninth'))).toMatchObject({
      code: 'ERR_QCOW2_LIMIT',
    });

    area = apply(area, removeLuksKey(area, 3));
    expect(await slotOpenedBy(area, 'secret 3')).toBe('ERR_QCOW2_SECRET');
    for (const [index, one] of secrets.entries()) {
      if (index !== 3) expect(await slotOpenedBy(area, one)).toBe(index);
    }
    const { slot, changes } = await addLuksKey(area, masterKey, 'again', { iterTimeMs: 0.01 });
    expect(slot).toBe(3);
    expect(await slotOpenedBy(apply(area, changes), 'again')).toBe(3);
  });

  it('can be chosen, unless they are in use or do not exist', async () => {
    const { headerArea, masterKey } = await createLuksHeader(quick);
    const { slot, changes } = await addLuksKey(headerArea, masterKey, 'b', { slot: 7, iterTimeMs: 0.01 });
    expect(slot).toBe(7);
    expect(await slotOpenedBy(apply(headerArea, changes), 'b')).toBe(7);
    expect(await errorOf(() => addLuksKey(headerArea, masterKey, 'b', { slot: 0 }))).toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
    for (const absent of [8, -1, 1.5]) {
      await expect(addLuksKey(headerArea, masterKey, 'b', { slot: absent })).rejects.toMatchObject({
        code: 'ERR_OUT_OF_RANGE',
      });
    }
  });

  it('are written material first, so that a crash in between leaves the image as it was', async () => {
    const { headerArea, masterKey } = await createLuksHeader(quick);
    const added = await addLuksKey(headerArea, masterKey, 'b', { iterTimeMs: 0.01 });
    const halfAdded = apply(headerArea, added.changes.slice(0, 1));
    expect(parseLuksHeader(halfAdded)).toEqual(parseLuksHeader(headerArea));
    const area = apply(headerArea, added.changes);
    const halfRemoved = apply(area, removeLuksKey(area, 1).slice(0, 1));
    expect(await slotOpenedBy(halfRemoved, 'b')).toBe('ERR_QCOW2_SECRET');
    expect(await slotOpenedBy(halfRemoved, secret)).toBe(0);
  });

  it('lose their salt and every byte of key material when removed, and nothing else changes', async () => {
    const { headerArea, masterKey } = await createLuksHeader(quick);
    const area = apply(
      headerArea,
      (await addLuksKey(headerArea, masterKey, 'b', { iterTimeMs: 0.01 })).changes,
    );
    const removed = apply(area, removeLuksKey(area, 0));
    const slot = parseLuksHeader(removed).slots[0];
    expect(slot).toMatchObject({ active: false, iterations: 0, keyMaterialOffset: 4096, stripes: 4000 });
    expect(slot?.salt.every((byte) => byte === 0)).toBe(true);
    const [start, length] = [4096, 64_000];
    let same = 0;
    for (let at = start; at < start + length; at += 16) {
      if (Buffer.from(area.subarray(at, at + 16)).equals(removed.subarray(at, at + 16))) same += 1;
    }
    expect(same).toBe(0);
    for (const [from, to] of [
      [0, 208],
      [256, start],
      [start + length, area.length],
    ] as const) {
      expect(Buffer.from(removed.subarray(from, to)).equals(area.subarray(from, to))).toBe(true);
    }
  });

  it('refuse to lose the last one unless forced', async () => {
    const { headerArea } = await createLuksHeader(quick);
    expect(await errorOf(() => removeLuksKey(headerArea, 0))).toMatchObject({ code: 'ERR_QCOW2_DATA_LOSS' });
    expect(await errorOf(() => removeLuksKey(headerArea, 1))).toMatchObject({ code: 'ERR_QCOW2_NOT_FOUND' });
    expect(() => removeLuksKey(headerArea, 8)).toThrow(RangeError);
    const erased = apply(headerArea, removeLuksKey(headerArea, 0, { force: true }));
    expect(await slotOpenedBy(erased, secret)).toBe('ERR_QCOW2_SECRET');
  });

  it('take only the master key of their own header', async () => {
    const [one, two] = await Promise.all([createLuksHeader(quick), createLuksHeader(quick)]);
    expect(await errorOf(() => addLuksKey(one.headerArea, two.masterKey, 'b'))).toMatchObject({
      code: 'ERR_QCOW2_SECRET',
    });
  });
});

describe('legacyAesCipher', () => {
  it('needs a secret, and cannot tell a wrong one', async () => {
    expect(await errorOf(() => legacyAesCipher(undefined))).toMatchObject({ code: 'ERR_QCOW2_SECRET' });
    const buffer = pattern(1, 512);
    legacyAesCipher('right').encrypt(buffer, 0);
    legacyAesCipher('wrong').decrypt(buffer, 0);
    expect(buffer.equals(pattern(1, 512))).toBe(false);
  });
});

describe('an image whose LUKS header is said to be large', () => {
  const mib = 2 ** 20;
  /** An image that has its header behind all else and says that it takes `length` bytes, which the file has. */
  async function withHeaderOf(length: number): Promise<MemoryStorage> {
    const image = new MemoryStorage();
    await (await create(image, mib, { encryption: { secret, iterTimeMs: 1 } })).close();
    const bytes = image.toBuffer();
    let at = bytes.readUInt32BE(100);
    while (bytes.readUInt32BE(at) !== 0x0537be77) at += 8 + Math.ceil(bytes.readUInt32BE(at + 4) / 8) * 8;
    const [offset, size] = [8, 16].map((field) => Number(bytes.readBigUInt64BE(at + field))) as [
      number,
      number,
    ];
    const place = 4 * mib;
    await image.write(bytes.subarray(offset, offset + size), place);
    await image.truncate(place + length);
    const pointer = Buffer.alloc(16);
    pointer.writeBigUInt64BE(BigInt(place));
    pointer.writeBigUInt64BE(BigInt(length), 8);
    await image.write(pointer, at + 8);
    return image;
  }

  it('is opened up to 16 MiB, and refused above before that is allocated', async () => {
    await (await open(await withHeaderOf(16 * mib), { secret })).close();
    const image = await withHeaderOf(16 * mib + 1);
    let error: Qcow2Error | undefined;
    const largest = await allocationsDuring(async () => {
      error = await errorOf(() => open(image, { secret }));
    });
    expect(error).toMatchObject({ code: 'ERR_QCOW2_INVALID_HEADER' });
    expect(largest).toBeLessThan(mib);
  });
});
