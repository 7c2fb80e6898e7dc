/** Takes a command line apart as GNU getopt_long does: bundled letters, abbreviated long names, options anywhere. */
import { HelpWanted, UsageFailure } from './failure.js';
import { didYouMean } from './suggest.js';

export interface OptionSpec<Name extends string = string> {
  /** The long name, without dashes; also how the option is known to the command. */
  name: Name;
  /** Other long names for it. */
  aliases?: readonly string[];
  /** The letters it may be given as; the first is the one to show. */
  letters?: string;
  /** What its argument is called in the help; absent for an option without one. */
  argument?: string;
  help: string;
}

export interface FoundOption<Name extends string> {
  name: Name;
  /** Empty for an option without argument. */
  value: string;
}

/**
 * Walks through a command line: iterating yields the options in their order and fails at the first wrong one, so that a
 * command which checks each value as it comes complains about the same thing first as qemu-img does. Afterwards
 * `positionals` holds the rest.
 */
export class CommandLine<Name extends string> implements Iterable<FoundOption<Exclude<Name, 'help'>>> {
  readonly positionals: string[] = [];
  readonly #specs: readonly OptionSpec<Name>[];
  readonly #words: readonly string[];
  readonly #stopAtOperand: boolean;

  /** @param settings `stopAtOperand`: whatever follows the first word that is no option is not looked at */
  constructor(
    specs: readonly OptionSpec<Name>[],
    words: readonly string[],
    settings: { stopAtOperand?: boolean } = {},
  ) {
    this.#specs = specs;
    this.#words = words;
    this.#stopAtOperand = settings.stopAtOperand ?? false;
  }

  /** @throws UsageFailure for an unknown option or a missing argument; HelpWanted for the option `help` */
  *[Symbol.iterator](): Generator<FoundOption<Exclude<Name, 'help'>>> {
    for (const { name, value } of this.#options()) {
      if (name === 'help') throw new HelpWanted();
      yield { name: name as Exclude<Name, 'help'>, value };
    }
  }

  /** Goes through to the end, for a command line whose only option is that for help. @throws as iterating */
  finish(): void {
    for (const { name } of this.#options()) if (name === 'help') throw new HelpWanted();
  }

  *#options(): Generator<FoundOption<Name>> {
    const words = this.#words.values();
    for (const word of words) {
      if (word === '--') this.positionals.push(...words);
      else if (word.startsWith('--')) yield this.#longOption(word, words);
      else if (word.startsWith('-') && word !== '-') yield* this.#bundle(word, words);
      else this.positionals.push(word, ...(this.#stopAtOperand ? words : []));
    }
  }

  #longOption(word: string, rest: Iterator<string>): FoundOption<Name> {
    const equals = word.indexOf('=');
    const given = equals < 0 ? word.slice(2) : word.slice(2, equals);
    const spec = this.#byLongName(given);
    if (spec === undefined) throw unrecognized(word, this.#suggestion(given));
    if (spec.argument === undefined) {
      if (equals >= 0) throw unrecognized(word);
      return { name: spec.name, value: '' };
    }
    return { name: spec.name, value: equals < 0 ? following(word, rest) : word.slice(equals + 1) };
  }

  #suggestion(given: string): { hint?: string } {
    return didYouMean(
      given,
      this.#specs.map(({ name }) => name),
      '--',
    );
  }

  /** The option of that name, or the only one whose name begins so. */
  #byLongName(given: string): OptionSpec<Name> | undefined {
    const exact = this.#specs.find((spec) => longNames(spec).includes(given));
    if (exact !== undefined) return exact;
    const matches = this.#specs.filter((spec) => longNames(spec).some((name) => name.startsWith(given)));
    return matches.length === 1 ? matches[0] : undefined;
  }

  *#bundle(word: string, rest: Iterator<string>): Generator<FoundOption<Name>> {
    for (let at = 1; at < word.length; at += 1) {
      const spec = this.#specs.find(({ letters }) => letters?.includes(word.charAt(at)));
      if (spec === undefined) throw unrecognized(word);
      if (spec.argument === undefined) {
        yield { name: spec.name, value: '' };
        continue;
      }
      const attached = word.slice(at + 1);
      yield { name: spec.name, value: attached === '' ? following(word, rest) : attached };
      return;
    }
  }
}

const longNames = ({ name, aliases = [] }: OptionSpec): readonly string[] => [name, ...aliases];

function following(word: string, rest: Iterator<string>): string {
  const next = rest.next();
  if (next.done === true) throw new UsageFailure(`missing argument for option '${word}'`);
  return next.value;
}

function unrecognized(word: string, suggestion: { hint?: string } = {}): UsageFailure {
  return new UsageFailure(`unrecognized option '${word}'`, suggestion);
}
