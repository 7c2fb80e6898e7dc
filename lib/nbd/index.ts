/**
 * The public face of `qcow2/nbd`. Start at {@link serveNbd}, which offers disks to NBD clients, and {@link openNbd}, which
 * opens an export of a server as a disk.
 */
export { NbdDisk, openNbd, type ByteRun, type OpenNbdOptions } from './nbd-disk.js';
export { NbdStorage } from './nbd-storage.js';
export { NbdServer, serveNbd, type NbdAddress, type ServeDiskOptions, type ServeOptions } from './server.js';
export type { NbdExport } from './served-export.js';
