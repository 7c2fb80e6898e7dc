/** Lists of `name=value,name=value`: a comma inside a value is doubled, a name without value is a switch. */
import { Failure } from './failure.js';
import { maxUint64, sizeParameter } from './sizes.js';

/** One `name=value` of a list; the value is null for a name that stands alone. */
export interface ListItem {
  name: string;
  value: string | null;
}

/** Splits a list; `,,` stands for a comma inside a value. */
export function splitList(list: string): ListItem[] {
  const items: ListItem[] = [];
  let rest = list;
  while (rest !== '') {
    // A name ends at the first `=` or `,`; only a value may hold doubled commas.
    const nameEnd = rest.search(/[=,]/);
    if (nameEnd < 0) return [...items, { name: rest, value: null }];
    const name = rest.slice(0, nameEnd);
    if (rest.charAt(nameEnd) === ',') {
      items.push({ name, value: null });
      rest = rest.slice(nameEnd + 1);
      continue;
    }
    const [raw] = /^(?:[^,]|,,)*/.exec(rest.slice(nameEnd + 1)) ?? [''];
    items.push({ name, value: raw.replaceAll(',,', ',') });
    rest = rest.slice(nameEnd + 1 + raw.length + 1);
  }
  return items;
}

/** Writes a value so that {@link splitList} reads it back. */
export function escapeValue(value: string): string {
  return value.replaceAll(',', ',,');
}

/**
 * Puts one more `-o` list behind those before it.
 * @throws Failure for a list that is empty, or begins or ends with a comma
 */
export function appendOptionList(before: string | null, list: string): string {
  const trailing = /,*$/.exec(list)?.[0].length ?? 0;
  if (list === '' || list.startsWith(',') || trailing % 2 === 1) {
    throw new Failure(`Invalid option list: ${list}`);
  }
  return before === null ? list : `${before},${list}`;
}

/** Whether the list asks what options there are: `-o help`. */
export function asksForHelp(list: string | null): boolean {
  return list !== null && splitList(list).some(({ name, value }) => value === null && isHelp(name));
}

function isHelp(name: string): boolean {
  return name === 'help' || name === '?';
}

/** What kind of value an option takes. */
export type OptionKind = 'text' | 'number' | 'size' | 'switch';

/** An option that an image format has for creating an image. */
export interface CreateOption {
  name: string;
  kind: OptionKind;
  help: string;
  /** The value it has when not given, as qemu-img shows it. */
  initial?: string;
  /** Belongs to the file underneath, not to the format. */
  ofFile?: true;
}

/** The options given, each checked to be of its kind. */
export class OptionValues {
  readonly #table: readonly CreateOption[];
  /** As given, with doubled commas undone. */
  readonly #values = new Map<string, string>();

  constructor(table: readonly CreateOption[]) {
    this.#table = table;
  }

  /**
   * Takes over a whole list; of a name given twice the last value counts.
   * @throws Failure for an unknown name or a value of the wrong kind, in the words of qemu-img
   */
  addList(list: string): void {
    for (const { name, value } of splitList(list)) {
      if (value !== null) this.set(name, value);
      else if (name.startsWith('no')) this.set(name.slice(2), 'off');
      else this.set(name, 'on');
    }
  }

  /** @throws as {@link addList} */
  set(name: string, value: string): void {
    const option = this.#table.find((candidate) => candidate.name === name);
    if (option === undefined) throw new Failure(`Invalid parameter '${name}'`);
    readAs(option.kind, name, value);
    this.#values.set(name, value);
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  text(name: string): string | undefined {
    return this.#values.get(name) ?? this.#table.find((option) => option.name === name)?.initial;
  }

  switch(name: string): boolean | undefined {
    const value = this.text(name);
    return value === undefined ? undefined : parseSwitch(name, value);
  }

  /** Bytes or a plain number. */
  number(name: string): bigint | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    const kind = this.#table.find((option) => option.name === name)?.kind;
    return kind === 'size' ? sizeParameter(name, value) : parseNumber(name, value);
  }

  /** All values in the order of the table, as `qemu-img create` echoes them. */
  summary(): string {
    return this.#table
      .flatMap(({ name, kind }) => {
        const value = this.text(name);
        if (value === undefined) return [];
        return [`${name}=${kind === 'text' || kind === 'switch' ? escapeValue(value) : this.#shown(name)}`];
      })
      .join(' ');
  }

  #shown(name: string): string {
    return String(BigInt.asIntN(64, this.number(name) ?? 0n));
  }
}

function readAs(kind: OptionKind, name: string, value: string): void {
  if (kind === 'number') parseNumber(name, value);
  if (kind === 'size') sizeParameter(name, value);
  if (kind === 'switch') parseSwitch(name, value);
}

const switchWords: Readonly<Record<string, boolean>> = {
  on: true,
  yes: true,
  true: true,
  y: true,
  off: false,
  no: false,
  false: false,
  n: false,
};

/** @throws Failure for anything but the words for on and off */
export function parseSwitch(name: string, value: string): boolean {
  const meaning = Object.hasOwn(switchWords, value) ? switchWords[value] : undefined;
  if (meaning === undefined) throw new Failure(`Parameter '${name}' expects 'on' or 'off'`);
  return meaning;
}

/** A whole number: decimal, hexadecimal (`0x`) or octal (`0`); a negative one counts down from 2^64. */
function parseNumber(name: string, value: string): bigint {
  const match = /^\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(0|[1-9]\d*))$/.exec(value);
  if (match === null) throw new Failure(`Parameter '${name}' expects a number`);
  const [, sign, hexadecimal, octal, decimal = '0'] = match;
  const digits =
    hexadecimal !== undefined ? `0x${hexadecimal}` : octal !== undefined ? `0o${octal}` : decimal;
  const number = BigInt(digits);
  if (number > maxUint64) throw new Failure(`Value '${value}' is too large for parameter '${name}'`);
  return sign === '-' ? BigInt.asUintN(64, -number) : number;
}
