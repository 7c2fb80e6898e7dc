/** Lists of hashes as text: as lines for people, as JSON to verify by later. */
import { readFileSync } from 'node:fs';
import type { DiskHashes } from '../index.js';
import { systemErrorText } from './error-text.js';
import { Failure } from './failure.js';
import type { OutputFormat } from './output-format.js';

const digestBytes = { sha256: 32, xxh64: 8 } as const;

/** The text of a list, in pieces, since there may be millions of blocks. */
export function* writeHashes(hashes: DiskHashes, output: OutputFormat): Generator<string> {
  const { algorithm, size, blockSize, content } = hashes;
  const whole = content === null ? null : hex(content);
  if (output === 'human') {
    for (const [index, digest] of digests(hashes)) yield `${index * blockSize} ${digest}\n`;
    if (whole !== null) yield `content ${whole}\n`;
    return;
  }
  yield `{\n    "algorithm": "${algorithm}",\n    "size": ${size},\n    "block-size": ${blockSize},\n`;
  yield `    "content": ${JSON.stringify(whole)},\n    "blocks": [`;
  for (const [index, digest] of digests(hashes)) yield `${index === 0 ? '' : ','}\n        "${digest}"`;
  yield '\n    ]\n}\n';
}

function* digests({ algorithm, blocks }: DiskHashes): Generator<[number, string]> {
  const length = digestBytes[algorithm];
  for (let at = 0; at < blocks.length; at += length) {
    yield [at / length, hex(blocks.subarray(at, at + length))];
  }
}

/**
 * Reads a list that {@link writeHashes} wrote as JSON.
 * @throws Failure when the file cannot be read or is no such list
 */
export function readHashes(path: string): DiskHashes {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new Failure(`Could not open '${path}': ${systemErrorText(cause)}`, { cause });
  }
  const hashes = parseHashes(text);
  if (hashes !== null) return hashes;
  throw new Failure(`'${path}' is no list of hashes`, {
    hint: "Make one with 'qcow2 hash --output=json FILE'.",
  });
}

function parseHashes(text: string): DiskHashes | null {
  const list = parseObject(text);
  const { algorithm, size, 'block-size': blockSize, content, blocks } = list;
  if (algorithm !== 'sha256' && algorithm !== 'xxh64') return null;
  if (!isCount(size) || !isCount(blockSize) || blockSize === 0 || blockSize % 512 !== 0) return null;
  const isDigest = (value: unknown): value is string =>
    typeof value === 'string' && value.length === 2 * digestBytes[algorithm] && /^[0-9a-f]*$/i.test(value);
  if (!Array.isArray(blocks) || blocks.length !== Math.ceil(size / blockSize)) return null;
  if (!blocks.every(isDigest) || (content !== null && !isDigest(content))) return null;
  const whole = content === null ? null : Buffer.from(content, 'hex');
  return { algorithm, size, blockSize, blocks: Buffer.from(blocks.join(''), 'hex'), content: whole };
}

function parseObject(text: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(text)) as Record<string, unknown>;
  } catch {
    return {};
  }
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
