/** The warning about raw images that are written to without having been called raw. */
import type { Context } from './context.js';

/** What looks raw may be anything else in the eyes of the next program. */
export function warnAboutProbing(name: string, { say }: Context): void {
  say(`WARNING: Image format was not specified for '${name}' and probing guessed raw.`);
  say(
    '         Automatically detecting the format is dangerous for raw images, write operations on block 0 ' +
      'will be restricted.',
  );
  say("         Specify the 'raw' format explicitly to remove the restrictions.");
}
