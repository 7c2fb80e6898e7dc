/** The VM state that a snapshot keeps past the end of the disk survives what is done to the others. */
import { open as openFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { open } from '../../lib/index.js';
import { expectCleanByQemu, qemuImg, qemuInfo, qemuIo } from '../support/oracle.js';
import { pattern } from '../support/pattern.js';
import { useTempDir } from '../support/temp-dir.js';

const temp = useTempDir();

it('VM state, its size, the clock and unknown extra data stay', async () => {
  const path = temp('disk.qcow2');
  await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', path, '4M']);
  await qemuIo(path, ['write -P 1 0 1M', 'write -b -P 5 0 64k', 'write -b -P 6 64k 64k']);
  await qemuImg(['snapshot', '-c', 'with state', path]);
  await setVmState(path, 128 * 1024, 123_456_789n);

  const disk = await open(path, { mode: 'r+' });
  await disk.write(pattern(1, 65536), 0);
  await disk.snapshots.create({ name: 'second' });
  await disk.write(pattern(2, 65536), 65536);
  await disk.snapshots.create({ name: 'third' });
  await disk.snapshots.delete('second');
  expect((await disk.snapshots.list())[0]).toMatchObject({
    id: '1',
    vmStateSize: 128 * 1024,
    vmClockNanoseconds: 123_456_789n,
  });
  const view = await disk.snapshots.open('1');
  expect(view.size).toBe(4 * 2 ** 20);
  await disk.snapshots.apply('third');
  await disk.close();
  await expectCleanByQemu(path);
  expect((await qemuInfo(path)).snapshots?.[0]).toMatchObject({ id: '1', 'vm-state-size': 128 * 1024 });

  const again = await open(path, { mode: 'r+' });
  await again.snapshots.apply('with state');
  await again.close();
  await expectCleanByQemu(path);
  await qemuIo(path, ['read -P 1 0 1M', 'read -b -P 5 0 64k', 'read -b -P 6 64k 64k']);
});

/** qemu-img makes snapshots without VM state: writes its size and the clock into the first entry. */
async function setVmState(path: string, size: number, clock: bigint): Promise<void> {
  const file = await openFile(path, 'r+');
  try {
    const header = Buffer.alloc(8);
    await file.read(header, 0, 8, 64);
    const table = Number(header.readBigUInt64BE());
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(clock);
    await file.write(bytes, 0, 8, table + 24);
    bytes.writeUInt32BE(size);
    await file.write(bytes, 0, 4, table + 32);
    bytes.writeBigUInt64BE(BigInt(size));
    await file.write(bytes, 0, 8, table + 40);
  } finally {
    await file.close();
  }
}
