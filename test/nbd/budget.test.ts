/** What the clients of one server may take together. */
import { expect, it } from 'vitest';
import { MemoryStorage, RawDisk } from '../../lib/index.js';
import { openNbd, serveNbd } from '../../lib/nbd/index.js';
import { useTempDir } from '../support/temp-dir.js';

const mib = 1024 * 1024;
const path = useTempDir();

/** A disk that remembers how many bytes were read at one time. */
class MeasuredDisk extends RawDisk {
  underWay = 0;
  most = 0;

  override readNow(): boolean {
    return false;
  }

  override async read(buffer: Uint8Array): Promise<void> {
    this.underWay += buffer.length;
    this.most = Math.max(this.most, this.underWay);
    await new Promise((resolve) => setTimeout(resolve, 5));
    buffer.fill(7);
    this.underWay -= buffer.length;
  }
}

it('many clients share the memory of the server, and all are served', async () => {
  const size = 16 * mib;
  const disk = new MeasuredDisk(new MemoryStorage(), size, true);
  await using server = await serveNbd(disk, { socket: path('s'), maxTotalBytes: 6 * mib });
  const clients = await Promise.all(Array.from({ length: 4 }, () => openNbd(server.uri())));
  const contents = await Promise.all(
    clients.map(async (client) => {
      const buffer = Buffer.alloc(size);
      await client.read(buffer, 0);
      return buffer;
    }),
  );
  for (const content of contents) expect(content.equals(Buffer.alloc(size, 7))).toBe(true);
  // Requests of 2 MiB: three of them fit, and no client may bring more than one of up to 1 MiB beside these.
  expect(disk.most).toBe(6 * mib);
  await Promise.all(clients.map((client) => client.close()));
});

it('a request larger than all there is is served alone, and small ones do not wait for it', async () => {
  const disk = new MeasuredDisk(new MemoryStorage(), 16 * mib, true);
  await using server = await serveNbd(disk, { socket: path('s'), maxTotalBytes: mib });
  await using large = await openNbd(server.uri());
  await using small = await openNbd(server.uri());
  const buffer = Buffer.alloc(8 * mib);
  await Promise.all([large.read(buffer, 0), small.read(Buffer.alloc(4096), 0), large.read(buffer, 0)]);
  expect(buffer.equals(Buffer.alloc(8 * mib, 7))).toBe(true);
  expect(disk.most).toBeLessThanOrEqual(3 * mib);
});
