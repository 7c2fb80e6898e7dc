/** Sizes are read and written as the real qemu-img does. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Failure } from '../../lib/cli/failure.js';
import { humanSize, parseSize, sizeArgument, sizeParameter } from '../../lib/cli/sizes.js';

const directory = mkdtempSync(join(tmpdir(), 'qcow2-sizes-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** What qemu-img makes of a size: bytes, or its complaint. */
function qemuSize(text: string): string {
  const args = ['create', '-f', 'qcow2', '-o', 'cluster_size=2M', join(directory, 'x'), '--', text];
  const { stdout, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' });
  return / size=(-?\d+)/.exec(stdout)?.[1] ?? stderr;
}

/** The same from this package, in the same form. */
function ownSize(text: string): string {
  try {
    return String(sizeArgument('image size', text));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    return error.message.replaceAll(/^/gm, 'qemu-img: ') + '\n';
  }
}

const texts = [
  '0', '1', '1k', '1K', '1M', '1G', '1T', '1P', '1E', '1b', '1B', '+1', ' 1', '010', '1.5G', '1.3k', '1.0005k',
  '1.9999k', '0.1M', '2.7P', '1.3E', '1.0', '1.', '1.k', '0.k', '00.5k', '1.33333333333333333333k', '7.9999999E',
  '1.99999999999999999k', '9223372036854775807', '0x1F', '0X1f', '0x1b', '0x7fffffffffffffff',
  '', ' ', 'k', '.5k', '1.5', '1.5b', '1X', '1kB', '1 k', '1k ', '1e3', '1E1', '1.e3k', '1,5k', '1_000', '++1', '-1', '-0',
  '0x', '0x1.8k', 'inf', 'nan', '8E', '9E', '16E', '99999999999999999999', '9223372036854775808',
]; // prettier-ignore

describe('a size on the command line', () => {
  it.each(texts)('%j is what it is to qemu-img', (text) => {
    expect(ownSize(text)).toBe(qemuSize(text));
  });

  it('tells a size that does not fit 64 bits from one that is no size', () => {
    expect(parseSize('16E')).toBe('too-large');
    expect(parseSize('16X')).toBe('malformed');
    expect(parseSize('15.5E')).toBe(31n * 2n ** 59n);
  });

  it('names the option whose value is no size', () => {
    expect(() => sizeParameter('cluster_size', 'foo')).toThrow(
      "Parameter 'cluster_size' expects a non-negative number below 2^64",
    );
    expect(() => sizeParameter('cluster_size', '100E')).toThrow(
      "Value '100E' is out of range for parameter 'cluster_size'",
    );
  });
});

describe('a size for people', () => {
  const sizes = [
    0, 512, 1024, 1536, 5632, 10752, 103424, 104960, 196608, 197120, 198144, 999936, 1000448, 1023488, 1024000, 1024512,
    1048064, 1048576, 1050112, 10485760, 1047527424, 1048575488, 1073741824, 2093796352, 107374182400, 1099511627776,
    1125899906842,
  ]; // prettier-ignore

  it.each(sizes)('%i bytes look as in qemu-img', (size) => {
    const file = join(directory, 'sized');
    writeFileSync(file, '');
    truncateSync(file, size);
    const text = execFileSync('qemu-img', ['info', '-f', 'raw', file], { encoding: 'utf8' });
    const [, human, bytes] = /virtual size: (.*) \((\d+) bytes\)/.exec(text) ?? [];
    expect(humanSize(Number(bytes))).toBe(human);
  });
});
