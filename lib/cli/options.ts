/** Every command's options: read by the parser and by the help. */
import type { OptionSpec } from './getopt.js';

export interface CommandSpec<Name extends string = string> {
  name: string;
  summary: string;
  /** What follows the options. */
  operands: string;
  options: readonly OptionSpec<Name>[];
  examples: readonly string[];
}

const help = { name: 'help', letters: 'h', help: 'print this help and exit' } as const;
const object = {
  name: 'object',
  argument: 'OBJDEF',
  help: 'define a secret: secret,id=ID,data=TEXT or secret,id=ID,file=PATH',
} as const;
const imageOpts = {
  name: 'image-opts',
  help: 'the name is a list such as driver=qcow2,file.filename=PATH,encrypt.key-secret=ID',
} as const;
const format = {
  name: 'format',
  letters: 'f',
  argument: 'FMT',
  help: 'format of the image, qcow2 or raw (default: found by looking at it)',
} as const;
const forceShare = {
  name: 'force-share',
  letters: 'U',
  help: 'take no locks: look at an image that another process is changing',
} as const;
const denyReferences = {
  name: 'deny-references',
  help: 'open nothing but the file named: refuse backing and external data files',
} as const;
const quiet = { name: 'quiet', letters: 'q', help: 'print nothing but errors' } as const;
const output = {
  name: 'output',
  argument: 'OFMT',
  help: 'form of the output: human (default) or json',
} as const;
const backingFormat = {
  argument: 'FMT',
  help: 'format of the backing file, qcow2 or raw',
} as const;

export const createSpec = {
  name: 'create',
  summary: 'Make a new image',
  operands: 'FILE [SIZE]',
  options: [
    { name: 'format', letters: 'f', argument: 'FMT', help: 'format of the new image (default: raw)' },
    {
      name: 'options',
      letters: 'o',
      argument: 'NAME=VALUE,...',
      help: 'options of the format; -o help lists them',
    },
    { name: 'backing', letters: 'b', argument: 'FILE', help: 'what the image shows until it is written to' },
    { name: 'backing-format', letters: 'FB', ...backingFormat },
    { name: 'backing-unsafe', letters: 'u', help: 'do not look at the backing file' },
    quiet,
    object,
    help,
  ],
  examples: ['create -f qcow2 disk.qcow2 20G', 'create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2'],
} as const satisfies CommandSpec;

export const infoSpec = {
  name: 'info',
  summary: 'Tell what an image is',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    { name: 'backing-chain', help: 'tell about its backing files, too' },
    forceShare,
    denyReferences,
    output,
    object,
    help,
  ],
  examples: ['info disk.qcow2', 'info --backing-chain --output=json overlay.qcow2'],
} as const satisfies CommandSpec;

export const checkSpec = {
  name: 'check',
  summary: 'Look for damage in an image, and repair it when told to',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    { name: 'cache', letters: 'T', argument: 'CACHE', help: 'accepted for compatibility' },
    {
      name: 'repair',
      letters: 'r',
      argument: 'WHAT',
      help: 'leaks: give lost space back; all: repair everything, at the risk of choosing wrongly',
    },
    forceShare,
    denyReferences,
    output,
    quiet,
    object,
    help,
  ],
  examples: ['check disk.qcow2', 'check -r leaks disk.qcow2'],
} as const satisfies CommandSpec;

export const mapSpec = {
  name: 'map',
  summary: 'List which parts of a disk are stored, and where',
  operands: 'FILE',
  options: [
    format,
    imageOpts,
    { name: 'start-offset', letters: 's', argument: 'OFFSET', help: 'where to begin (default: 0)' },
    { name: 'max-length', letters: 'l', argument: 'LENGTH', help: 'how far to go (default: to the end)' },
    forceShare,
    denyReferences,
    output,
    object,
    help,
  ],
  examples: ['map disk.qcow2', 'map --output=json -s 1G -l 100M disk.qcow2'],
} as const satisfies CommandSpec;

export const convertSpec = {
  name: 'convert',
  summary: 'Copy a disk into a new image',
  operands: 'SOURCE TARGET',
  options: [
    { ...format, name: 'source-format' },
    imageOpts,
    { name: 'source-cache', letters: 'T', argument: 'CACHE', help: 'accepted for compatibility' },
    {
      name: 'target-format',
      letters: 'O',
      argument: 'FMT',
      help: 'format of the new image, qcow2 or raw (default: raw)',
    },
    {
      name: 'target-format-options',
      letters: 'o',
      argument: 'NAME=VALUE,...',
      help: 'options of the target format; -o help lists them',
    },
    {
      name: 'target-cache',
      letters: 't',
      argument: 'CACHE',
      help: 'with anything but unsafe (the default) the target is on the disk when the command ends',
    },
    {
      name: 'backing',
      letters: 'Bb',
      argument: 'FILE',
      help: 'make the target an overlay over FILE, which shows what the backing file of SOURCE shows',
    },
    { name: 'backing-format', letters: 'F', ...backingFormat },
    { name: 'compress', letters: 'c', help: 'compress the clusters of a qcow2 target' },
    {
      name: 'sparse-size',
      letters: 'S',
      argument: 'SIZE',
      help: 'shortest run of zeros to leave out (default: 4k); 0 leaves out nothing',
    },
    { name: 'no-create', letters: 'n', help: 'write into a target that exists' },
    { name: 'parallel', letters: 'm', argument: 'N', help: 'requests in flight at once, 1 to 16' },
    { name: 'oob-writes', letters: 'W', help: 'accepted: the target may be written in any order' },
    { name: 'copy-range-offloading', letters: 'C', help: 'accepted: the file system may share extents' },
    { name: 'progress', letters: 'p', help: 'show how far it has come' },
    quiet,
    forceShare,
    denyReferences,
    object,
    help,
  ],
  examples: [
    'convert -O qcow2 disk.raw disk.qcow2',
    'convert -p -c -O qcow2 -o compression_type=zstd a.qcow2 b.qcow2',
  ],
} as const satisfies CommandSpec;

export const resizeSpec = {
  name: 'resize',
  summary: 'Change the size of a disk',
  operands: 'FILE [+|-]SIZE',
  options: [
    format,
    imageOpts,
    {
      name: 'preallocation',
      argument: 'MODE',
      help: 'space for what is added: off (default), metadata, falloc or full',
    },
    { name: 'shrink', help: 'allow the disk to become smaller, which loses what was at its end' },
    denyReferences,
    quiet,
    object,
    help,
  ],
  examples: ['resize disk.qcow2 +10G', 'resize --shrink disk.qcow2 5G'],
} as const satisfies CommandSpec;

export const serveSpec = {
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
    forceShare,
    denyReferences,
    object,
    help,
  ],
  examples: ['serve -k /run/disk.sock disk.qcow2', 'serve --snapshot -p 10809 backup.qcow2'],
} as const satisfies CommandSpec;

/** All commands, in the order of the help. */
export const commandSpecs: readonly CommandSpec[] = [
  createSpec,
  infoSpec,
  checkSpec,
  mapSpec,
  convertSpec,
  resizeSpec,
  serveSpec,
];

/** What stands before the command. */
export const globalOptions = [
  help,
  { name: 'version', letters: 'V', help: 'print the version and exit' },
  { name: 'trace', letters: 'T', argument: 'SPEC', help: 'accepted for compatibility' },
] as const satisfies readonly OptionSpec[];
