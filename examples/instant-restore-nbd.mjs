// Instant restore: a backup is served over NBD before anything is copied. A virtual machine can boot from it and write, for what it
// writes goes to a temporary overlay; the backup itself stays as it is.
// node examples/instant-restore-nbd.mjs BACKUP SOCKET
import { open, openTemporaryOverlay } from 'qcow2';
import { serveNbd } from 'qcow2/nbd';

const [backup, socket] = process.argv.slice(2);
if (socket === undefined) throw new Error('usage: instant-restore-nbd.mjs BACKUP SOCKET');

// A chain of incremental backups works as well: each names the one before it, in the same directory.
const image = await open(backup, { resolve: 'same-directory' });
const disk = await openTemporaryOverlay(image, { maxBytes: 10 * 2 ** 30 });
const server = await serveNbd(disk, { socket, readOnly: false, onError: (error) => console.error(error) });

// qemu-img convert URI restored.qcow2; qemu-system-x86_64 -drive file=URI,format=raw; nbd-client on a kernel.
console.log(server.uri());

process.once('SIGINT', async () => {
  await server.close();
  await disk.close(); // closes the image, and throws away what was written
});
