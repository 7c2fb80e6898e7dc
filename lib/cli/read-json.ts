/**
 * Reads JSON as QEMU does, and tells mistakes in its words: strings may stand in single quotes, which spares a shell its
 * own, and no name may stand twice in an object.
 */
import { Failure } from './failure.js';

export type JsonValue = string | boolean | null | JsonNumber | JsonValue[] | JsonObject;
export type JsonObject = Map<string, JsonValue>;

/** A number, as it was written: no digit of 64 bits is lost. */
export class JsonNumber {
  constructor(readonly text: string) {}
}

const maxDepth = 1024;
const blanks = /[ \t\r\n]*/y;
const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
/** The beginning of a number that is none, with the character at which it ceases to be one. */
const brokenNumber = /-?0\d|-(?!\d)[^]?|-?(?:0|[1-9]\d*)(?:\.(?!\d)|(?:\.\d+)?[eE](?![+-]?\d)[+-]?)[^]?/y;
// Control characters may not stand in a string.
const begun = [
  String.raw`"(?:[ !#-[\]-\u{10ffff}]|\\[ -\u{10ffff}])*`,
  String.raw`'(?:[ -&(-[\]-\u{10ffff}]|\\[ -\u{10ffff}])*`,
] as const;
const string = new RegExp(`${begun[0]}"|${begun[1]}'`, 'uy');
const brokenString = new RegExp(String.raw`(?:${begun[0]}|${begun[1]})\\?[^]?`, 'uy');
const keyword = /[a-z]+/y;
const punctuation = /[{}[\],:]/y;
const anything = /[^]/uy;

const escaped: Readonly<Record<string, string>> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

/** @throws Failure in the words of QEMU */
export function readJson(text: string): JsonValue {
  const { tokens, end } = firstTokens(text);
  if (tokens.length === 0) throw new Failure('Expecting a JSON value');
  const value = new Parser(tokens).value();
  if (end < text.length) throw new Failure('Expecting at most one JSON value');
  return value;
}

/** The tokens up to where all brackets are closed, and where they and the blanks behind them end. */
function firstTokens(text: string): { tokens: string[]; end: number } {
  const tokens: string[] = [];
  const open = { '{': 0, '[': 0 };
  const take = (pattern: RegExp, at: number): string => {
    pattern.lastIndex = at;
    return pattern.exec(text)?.[0] ?? '';
  };
  let at = take(blanks, 0).length;
  while (at < text.length) {
    const broken = take(brokenNumber, at);
    const token =
      broken === '' ? [punctuation, string, number, keyword].map((kind) => take(kind, at)).find(Boolean) : '';
    if (token === undefined || token === '') {
      throw mistake(`stray '${broken || take(brokenString, at) || take(anything, at)}'`);
    }
    tokens.push(token);
    at += token.length;
    at += take(blanks, at).length;
    if (token === '{' || token === '[') open[token] += 1;
    if (token === '}') open['{'] -= 1;
    if (token === ']') open['['] -= 1;
    if (open['{'] + open['['] > maxDepth) throw new Failure('JSON nesting depth limit exceeded');
    if (Math.min(open['{'], open['[']) < 0 || Math.max(open['{'], open['[']) === 0) break;
  }
  return { tokens, end: at };
}

class Parser {
  readonly #tokens: readonly string[];
  #next = 0;

  constructor(tokens: readonly string[]) {
    this.#tokens = tokens;
  }

  value(): JsonValue {
    const token = this.#take();
    if (token === '{') return this.#object();
    if (token === '[') return this.#array();
    if (isString(token)) return stringOf(token);
    if (/^[-\d]/.test(token)) return new JsonNumber(token);
    if (token === 'true' || token === 'false') return token === 'true';
    if (token === 'null') return null;
    throw mistake(/^[a-z]/.test(token) ? `invalid keyword '${token}'` : 'expecting value');
  }

  #object(): JsonObject {
    const object: JsonObject = new Map();
    if (this.#skips('}')) return object;
    do {
      const name = this.value();
      if (typeof name !== 'string') throw mistake('key is not a string in object');
      if (this.#take() !== ':') throw mistake('missing : in object pair');
      const value = this.value();
      if (object.has(name)) throw mistake('duplicate key');
      object.set(name, value);
    } while (this.#goesOn('}', 'dict'));
    return object;
  }

  #array(): JsonValue[] {
    const array: JsonValue[] = [];
    if (this.#skips(']')) return array;
    do array.push(this.value());
    while (this.#goesOn(']', 'list'));
    return array;
  }

  #goesOn(end: string, where: string): boolean {
    const token = this.#take();
    if (token !== end && token !== ',') throw mistake(`expected separator in ${where}`);
    return token === ',';
  }

  #skips(token: string): boolean {
    if (this.#tokens[this.#next] !== token) return false;
    this.#next += 1;
    return true;
  }

  #take(): string {
    const token = this.#tokens[this.#next];
    if (token === undefined) throw mistake('premature EOI');
    this.#next += 1;
    return token;
  }
}

const isString = (token: string): boolean => token.startsWith('"') || token.startsWith("'");

/** What a string in quotes says. */
function stringOf(token: string): string {
  const text = token.slice(1).replaceAll(/\\u(?:d[89ab]..\\u....|.{0,4})|\\./gisu, (escape) => {
    const letter = escape.charAt(1);
    if (letter === 'u') return unicodeOf(escape);
    if (!/["'\\/bfnrt]/.test(letter)) throw mistake('invalid escape sequence in string');
    return escaped[letter] ?? letter;
  });
  return text.slice(0, -1);
}

/** The character of one escape, or of a surrogate pair of two. */
function unicodeOf(escape: string): string {
  const isComplete = /^(?:\\u[\da-f]{4}){1,2}$/i.test(escape);
  const character = isComplete ? (JSON.parse(`"${escape}"`) as string) : '';
  if (isComplete && !/\p{Cs}/u.test(character)) return character;
  throw mistake(`${escape} is not a valid Unicode character`);
}

function mistake(what: string): Failure {
  return new Failure(`JSON parse error, ${what}`);
}
