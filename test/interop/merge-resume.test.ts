/** A chain merged into one image in the order given, stopped, and gone on with from the last checkpoint. */
import { describe, expect, it } from 'vitest';
import { convert, create, openChain, type Checkpoint, type ImageFormat } from '../../lib/index.js';
import { expectCleanByQemu, qemuCompare } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 2 ** 20;
const layers = ['base', 'middle', 'top'];

async function makeChain(): Promise<void> {
  for (const [at, name] of layers.entries()) {
    const backing = at === 0 ? {} : { backing: { name: layers[at - 1] ?? '', format: 'qcow2' as const } };
    const image = await create(path(name), 24 * MiB, { ...backing, resolve: 'any' });
    for (let part = at; part < 24; part += at + 1)
      await image.write(pattern(at * 100 + part, 500_000), part * MiB + 700);
    await image.writeZeroes((5 + at) * MiB, 600_000);
    await image.close();
  }
}

describe('a resumed merge', () => {
  it.each<ImageFormat>(['qcow2', 'raw'])('into a kept %s target', async (targetFormat) => {
    await makeChain();
    await convert(path('top'), path('merged'), { targetFormat, open: { resolve: 'any' } });
    await convert(path('base'), path('kept'), { targetFormat });
    const reason = new Error('power cut');
    let last: Checkpoint | undefined;
    let reported = 0;
    const chain = await openChain(layers.map(path));
    const options = { targetFormat, keepTarget: true, checkpointBytes: 3 * MiB } as const;
    const stopping = convert(chain, path('kept'), {
      ...options,
      onCheckpoint: async (checkpoint) => {
        await Promise.resolve();
        last = checkpoint;
        reported += 1;
        if (reported === 3) throw reason;
      },
    });
    await expect(stopping).rejects.toBe(reason);
    if (last === undefined) throw new Error('no checkpoint');
    expect(last.position).toBeGreaterThan(8 * MiB);
    const dones: number[] = [];
    await convert(chain, path('kept'), {
      ...options,
      resumeFrom: last,
      onProgress: ({ done }) => dones.push(done),
    });
    expect(dones[0]).toBeGreaterThan(last.position - 1);
    expect(dones.at(-1)).toBe(24 * MiB);
    await chain.close();
    const { same, output } = await qemuCompare(path('top'), path('kept'), { b: targetFormat });
    expect(same, output).toBe(true);
    if (targetFormat === 'qcow2') await expectCleanByQemu(path('kept'));
    // A layer that changes makes the checkpoint worthless.
    const changed = await openChain([path('base'), path('top')]);
    await expect(convert(changed, path('kept'), { ...options, resumeFrom: last })).rejects.toMatchObject({
      code: 'ERR_QCOW2_CONFLICT',
    });
    await changed.close();
  });

  it('needs a target that is kept', async () => {
    await makeChain();
    await expect(
      convert(path('base'), path('new'), { targetFormat: 'raw', onCheckpoint: () => undefined }),
    ).rejects.toMatchObject({ code: 'ERR_QCOW2_CONFLICT' });
  });
});
