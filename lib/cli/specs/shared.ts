/** What a command says of itself, and the options that many commands have. */
import type { OptionSpec } from '../getopt.js';

export interface CommandSpec<Name extends string = string> {
  name: string;
  summary: string;
  /** What follows the options. */
  operands: string;
  options: readonly OptionSpec<Name>[];
  /** What else is to be known, a sentence or more each. */
  notes?: readonly string[];
  examples: readonly string[];
}

export const help = { name: 'help', letters: 'h', help: 'print this help and exit' } as const;
export const object = {
  name: 'object',
  argument: 'OBJDEF',
  help: 'define a secret: secret,id=ID,data=TEXT or secret,id=ID,file=PATH; with format=base64, keyid=ID and iv=IV one encrypted by another',
} as const;
export const imageOpts = {
  name: 'image-opts',
  help: 'the name is a list such as driver=qcow2,file.filename=PATH,encrypt.key-secret=ID',
} as const;
export const format = {
  name: 'format',
  letters: 'f',
  argument: 'FMT',
  help: 'format of the image, qcow2 or raw (default: found by looking at it)',
} as const;
export const forceShare = {
  name: 'force-share',
  letters: 'U',
  help: 'take no locks: look at an image that another process is changing',
} as const;
export const denyReferences = {
  name: 'deny-references',
  help: 'open nothing but the file named: refuse backing and external data files',
} as const;
/** What stands at the end for each command that only looks at images. */
export const looking = [forceShare, denyReferences, object, help] as const;
export const quiet = { name: 'quiet', letters: 'q', help: 'print nothing but errors' } as const;
export const output = {
  name: 'output',
  argument: 'OFMT',
  help: 'form of the output: human (default) or json',
} as const;
export const backingFormat = {
  argument: 'FMT',
  help: 'format of the backing file, qcow2 or raw',
} as const;
export const progress = { name: 'progress', letters: 'p', help: 'show how far it has come' } as const;
export const rateLimit = {
  name: 'rate-limit',
  letters: 'r',
  argument: 'RATE',
  help: 'bytes a second to copy at most',
} as const;
export const snapshotChoice = {
  name: 'snapshot',
  letters: 'l',
  argument: 'SNAPSHOT',
  help: 'the disk as a snapshot has it: its id or name, or snapshot.id=ID,snapshot.name=NAME',
} as const;
