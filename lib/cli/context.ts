/** What every command is given besides its words. */
import type { Output } from './output.js';
import type { Terminal } from './terminal.js';

export interface Context {
  /** The name the program calls itself by: `qcow2`, or `qemu-img` when it stands in for it. */
  readonly program: string;
  readonly out: Output;
  /** Where a person watches; null when nobody does, or the program stands in for qemu-img. */
  readonly terminal: Terminal | null;
  /** Prints a line on standard error, as plain text whatever is in it: names inside an image are anybody's. */
  readonly say: (line: string) => void;
  /** The same, behind the program's name. */
  readonly complain: (message: string) => void;
}

/** A command: takes its words (without its own name) and resolves to the exit code. */
export type Command = (words: readonly string[], context: Context) => Promise<number>;
