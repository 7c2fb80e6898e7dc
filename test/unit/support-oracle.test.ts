import { open } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import {
  expectCleanByQemu,
  holdByQemu,
  qemuCheck,
  qemuCompare,
  qemuContent,
  qemuImg,
  qemuInfo,
  qemuIo,
  qemuMap,
} from '../support/oracle.js';
import { PlainDisk } from '../support/plain-disk.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();
const mebibyte = 2 ** 20;

async function image(name = 'a.qcow2'): Promise<string> {
  await qemuImg(['create', '-q', '-f', 'qcow2', temp(name), '1M']);
  return temp(name);
}

describe('the oracle', () => {
  it('makes, describes, maps and reads an image', async () => {
    const path = await image();
    await qemuIo(path, ['write -P 7 64k 64k', 'read -P 7 64k 64k']);
    expect(await qemuInfo(path)).toMatchObject({
      format: 'qcow2',
      'virtual-size': mebibyte,
      'cluster-size': 65_536,
    });
    expect((await qemuMap(path)).find(({ data }) => data)).toMatchObject({ start: 65_536, length: 65_536 });
    const content = await qemuContent(path);
    expect(
      content.equals(
        Buffer.concat([Buffer.alloc(65_536), Buffer.alloc(65_536, 7), Buffer.alloc(14 * 65_536)]),
      ),
    ).toBe(true);
    await expectCleanByQemu(path);
    expect(await qemuCheck(path)).toMatchObject({ exit: 0, 'check-errors': 0, 'allocated-clusters': 1 });
  });

  it('tells when qemu-io fails or reads something else', async () => {
    const path = await image();
    await expect(qemuIo(path, ['read -P 7 0 512'])).rejects.toThrow(/Pattern verification failed/);
    await expect(qemuIo(path, ['write 2M 512'])).rejects.toThrow(/exited with 1/);
    await expect(qemuImg(['info', temp('absent')])).rejects.toThrow(/No such file/);
    expect(await qemuImg(['info', temp('absent')], { expectExit: 1 })).toMatchObject({ exit: 1 });
  });

  it('compares with a raw file of the model', async () => {
    const path = await image();
    const model = new PlainDisk(mebibyte);
    await model.saveAs(temp('raw'));
    expect(await qemuCompare(path, temp('raw'), { b: 'raw' })).toMatchObject({ same: true });
    await qemuIo(path, ['write -P 7 64k 512']);
    expect(await qemuCompare(path, temp('raw'), { b: 'raw' })).toMatchObject({ same: false });
  });

  it('finds an image that is not clean, and repairs it', async () => {
    const path = await image();
    const file = await open(path, 'r+');
    await file.truncate(10 * 65_536);
    // Refcount block at 128 KiB: says that cluster 9, which nothing refers to, is used.
    await file.write(Buffer.from([0, 1]), 0, 2, 131_072 + 2 * 9);
    await file.close();
    await expect(expectCleanByQemu(path)).rejects.toThrow(/Leaked cluster 9/);
    expect(await qemuCheck(path)).toMatchObject({ exit: 3, leaks: 1 });
    expect(await qemuCheck(path, 'leaks')).toMatchObject({ exit: 0, 'leaks-fixed': 1 });
    await expectCleanByQemu(path);
  });

  it('lets qemu-io hold an image', async () => {
    const path = await image();
    const holder = await holdByQemu(path);
    await expect(qemuImg(['check', path])).rejects.toThrow(/lock/);
    await holder.release();
    await qemuImg(['check', path]);
    await expect(holdByQemu(temp('absent'))).rejects.toThrow(/No such file/);
  });
});
