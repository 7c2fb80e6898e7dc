/** The command lines of what qemu-img does not have: options of an image, and a fixed number of operands. */
import { UsageFailure } from './failure.js';
import { CommandLine } from './getopt.js';
import type { FoundOption } from './getopt.js';
import { ImageArguments } from './image-arguments.js';
import type { CommandSpec } from './specs/shared.js';

/**
 * @param take is given the options that are not those of every image
 * @returns the operands, as many as the command has words in its `operands`
 * @throws UsageFailure
 */
export function parseImageCommand<Name extends string>(
  spec: CommandSpec<Name>,
  words: readonly string[],
  take: (option: FoundOption<Exclude<Name, 'help'>>) => void = () => undefined,
): { images: ImageArguments; operands: string[] } {
  const line = new CommandLine(spec.options, words);
  const images = new ImageArguments();
  for (const option of line) {
    if (!images.take(option.name, option.value)) take(option);
  }
  const expected = spec.operands.split(' ');
  if (line.positionals.length !== expected.length) throw new UsageFailure(`Expecting ${expected.join(' ')}`);
  return { images, operands: line.positionals };
}
