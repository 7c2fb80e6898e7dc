/** The commands of qcow-tool that are conversions between two given formats. */
import { run as convert } from './commands/convert.js';
import type { Command } from './context.js';
import { UsageFailure } from './failure.js';
import { CommandLine } from './getopt.js';
import type { ImageFormat } from '../options.js';
import type { CommandSpec } from './specs/shared.js';

interface Conversion {
  from: ImageFormat;
  to: ImageFormat;
  /** Source and target, from the operands. */
  files: (operands: readonly string[]) => readonly string[];
}

/** The command that hands its options, all of which `convert` has too, on to `convert`. */
export function conversion(spec: CommandSpec, { from, to, files }: Conversion): Command {
  return (words, context) => {
    const line = new CommandLine(spec.options, words);
    const takesValue = new Set(
      spec.options.filter(({ argument }) => argument !== undefined).map(({ name }) => name),
    );
    const options = [...line].map(({ name, value }) => `--${name}${takesValue.has(name) ? `=${value}` : ''}`);
    const expected = spec.operands.split(' ');
    if (line.positionals.length !== expected.length) {
      throw new UsageFailure(`Expecting ${expected.join(' ')}`);
    }
    const formats = [`--source-format=${from}`, `--target-format=${to}`];
    return convert([...formats, ...options, '--', ...files(line.positionals)], context);
  };
}
