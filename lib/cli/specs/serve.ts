/** The options of `serve`. */
import { format, imageOpts, looking } from './shared.js';
import type { CommandSpec } from './shared.js';

export const spec = {
  name: 'serve',
  summary: 'Offer a disk to NBD clients until interrupted',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    {
      name: 'socket',
      letters: 'k',
      argument: 'PATH',
      help: 'make a Unix socket instead of listening on TCP',
    },
    { name: 'bind', letters: 'b', argument: 'ADDRESS', help: 'listen at this address (default: 127.0.0.1)' },
    { name: 'port', letters: 'p', argument: 'PORT', help: 'listen on this port (default: 10809); 0: any' },
    { name: 'read-only', letters: 'r', help: 'let clients only read (the default)' },
    { name: 'writable', letters: 'w', help: 'let clients change the image' },
    {
      name: 'snapshot',
      letters: 's',
      help: 'let clients write, but to a temporary file that is thrown away in the end',
    },
    {
      name: 'export-name',
      letters: 'x',
      argument: 'NAME',
      help: 'the name clients ask for (default: empty)',
    },
    { name: 'description', letters: 'D', argument: 'TEXT', help: 'what clients are told about the disk' },
    {
      name: 'bitmap',
      letters: 'B',
      argument: 'NAME',
      help: 'show this bitmap of the image to clients; may be given several times',
    },
    { name: 'shared', letters: 'e', argument: 'N', help: 'clients at once (default: 64)' },
    {
      name: 'tls-certificates',
      argument: 'DIR',
      help: 'make clients use TLS: DIR has server-cert.pem, server-key.pem and, for clients that must have a certificate, too, ca-cert.pem',
    },
    ...looking,
  ],
  examples: ['serve -k /run/disk.sock disk.qcow2', 'serve --snapshot -p 10809 backup.qcow2'],
} as const satisfies CommandSpec;
