/** The public face of `qcow2/nbd`: disks offered to NBD clients. Start at {@link serveNbd}. */
export { NbdServer, serveNbd, type NbdAddress, type ServeDiskOptions, type ServeOptions } from './server.js';
export type { NbdExport } from './served-export.js';
