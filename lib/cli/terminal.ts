/** Standard error where a person watches it: messages in colour, and one line that changes while work goes on. */
import type { Sink } from './output.js';

/** What a piece of text is, which decides over its colour. */
export type Style = 'bold' | 'dim' | 'error' | 'warning' | 'good';

const codes: Readonly<Record<Style, string>> = {
  bold: '1',
  dim: '2',
  error: '1;31',
  warning: '33',
  good: '32',
};
const escape = '\u001b[';
const eraseLine = `\r${escape}K`;

/** Whether text that goes there may be coloured: https://no-color.org. */
export function takesColour({ isTerminal }: Sink, environment: NodeJS.ProcessEnv = process.env): boolean {
  const { NO_COLOR: noColour = '', TERM: kind } = environment;
  return isTerminal && noColour === '' && kind !== 'dumb';
}

/** Text in the colour of a style. */
export const coloured = (style: Style, text: string): string => `${escape}${codes[style]}m${text}${escape}0m`;

export class Terminal {
  readonly #sink: Sink;
  #isDrawn = false;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  /** Puts a line in place of the one drawn before. */
  draw(line: string): void {
    this.#write(`\r${line}${escape}K`);
    this.#isDrawn = true;
  }

  /** Takes the drawn line away, so that something else can be written. */
  clear(): void {
    if (this.#isDrawn) this.#write(eraseLine);
    this.#isDrawn = false;
  }

  #write(text: string): void {
    try {
      this.#sink.write(Buffer.from(text));
    } catch {
      // A terminal that went away needs no bar; the work goes on.
    }
  }
}
