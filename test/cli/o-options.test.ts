/** Lists of options, and the options of the formats. */
import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createOptionsHelp, createOptionTables, qcow2CreateOptions } from '../../lib/cli/create-options.js';
import {
  appendOptionList,
  asksForHelp,
  escapeValue,
  OptionValues,
  splitList,
} from '../../lib/cli/o-options.js';
import { Secrets } from '../../lib/cli/objects.js';

function qcow2Values(list: string): OptionValues {
  const values = new OptionValues(createOptionTables.qcow2);
  values.addList(list);
  return values;
}

describe('a list of options', () => {
  it('is split at single commas', () => {
    expect(splitList('a=1,b,c=x,,y,,,d=')).toEqual([
      { name: 'a', value: '1' },
      { name: 'b', value: null },
      { name: 'c', value: 'x,y,' },
      { name: 'd', value: '' },
    ]);
    expect(splitList('')).toEqual([]);
  });

  it('brings back every value that was escaped', () => {
    const name = fc.stringMatching(/^[a-z._-]+$/);
    fc.assert(
      fc.property(fc.array(fc.record({ name, value: fc.string() })), (items) => {
        const list = items.map((item) => `${item.name}=${escapeValue(item.value)}`).join(',');
        expect(splitList(list)).toEqual(items);
      }),
    );
  });

  it.each(['', ',', 'a=b,', ',a=b', 'a=b,,,', ',,a'])('%j is refused', (list) => {
    expect(() => appendOptionList(null, list)).toThrow(`Invalid option list: ${list}`);
  });

  it('may be given in several parts, and may end in an escaped comma', () => {
    expect(appendOptionList('a=b', 'c=d,,')).toBe('a=b,c=d,,');
  });

  it.each(['help', '?', 'compat=v3,help', 'foo=1,?'])('%j asks for help', (list) => {
    expect(asksForHelp(list)).toBe(true);
  });

  it.each(['help=on', 'compat=help', null])('%j does not', (list) => {
    expect(asksForHelp(list)).toBe(false);
  });
});

describe('the options of a format', () => {
  it.each(['qcow2', 'raw'] as const)('of %s are listed as by qemu-img', (format) => {
    const qemu = (args: string[]): string =>
      execFileSync('qemu-img', ['create', '-f', format, '-o', 'help', ...args], { encoding: 'utf8' });
    expect(createOptionsHelp(format, true)).toBe(qemu(['x']));
    expect(createOptionsHelp(format, false)).toBe(qemu([]));
  });

  it('may be switched on and off by name alone; the last value counts', () => {
    expect(qcow2Values('lazy_refcounts').switch('lazy_refcounts')).toBe(true);
    expect(qcow2Values('lazy_refcounts=y,nolazy_refcounts').switch('lazy_refcounts')).toBe(false);
    expect(qcow2Values('compat=v2,compat=v3').text('compat')).toBe('v3');
  });

  it('become options of the library', () => {
    const list =
      'compat=1.1,cluster_size=1M,extended_l2=on,lazy_refcounts=on,refcount_bits=0x20,compression_type=zstd,' +
      'preallocation=metadata,backing_file=a,,b.raw,backing_fmt=raw,nocow=on';
    expect(qcow2CreateOptions(qcow2Values(list), new Secrets())).toEqual({
      version: 3,
      clusterSize: 1048576,
      extendedL2: true,
      lazyRefcounts: true,
      refcountBits: 32,
      compressionType: 'zstd',
      preallocation: 'metadata',
      backing: { name: 'a,b.raw', format: 'raw' },
    });
  });

  it('hold the secret of an encrypted image', () => {
    const secrets = new Secrets();
    secrets.define('secret,id=s,data=Zm9v,format=base64');
    const list = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=aes-128,encrypt.iter-time=10';
    expect(qcow2CreateOptions(qcow2Values(list), secrets).encryption).toEqual({
      secret: Buffer.from('foo'),
      cipherAlg: 'aes-128',
      iterTimeMs: 10,
    });
  });
});
