/** JSON laid out byte for byte as qemu-img prints it: four spaces, one member a line, ASCII only. */

export type Json = string | number | bigint | boolean | JsonObject | readonly Json[];
export interface JsonObject {
  readonly [name: string]: Json | undefined;
}

/** The text of a value; members that are undefined are left out. */
export function toJson(value: Json, indent = ''): string {
  if (typeof value === 'string') return quote(value);
  if (typeof value !== 'object') return String(value);
  const inner = `${indent}    `;
  if (isList(value)) {
    return enclose(
      '[',
      value.map((item) => inner + toJson(item, inner)),
      ']',
      indent,
    );
  }
  return enclose(
    '{',
    members(value).map(([name, member]) => `${inner}${quote(name)}: ${toJson(member, inner)}`),
    '}',
    indent,
  );
}

/** The members that are there. */
export function members(object: JsonObject): [string, Json][] {
  return Object.entries(object).filter((entry): entry is [string, Json] => entry[1] !== undefined);
}

export function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

function enclose(open: string, lines: string[], close: string, indent: string): string {
  return lines.length === 0
    ? `${open}\n${indent}${close}`
    : `${open}\n${lines.join(',\n')}\n${indent}${close}`;
}

const shortEscapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\b': '\\b',
  '\f': '\\f',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};

/** A string in quotes; everything outside printable ASCII is escaped, in upper-case digits. */
export function quote(text: string): string {
  const escaped = text.replaceAll(
    /["\\]|[^ -~]/g,
    (unit) => shortEscapes[unit] ?? `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`,
  );
  return `"${escaped}"`;
}
