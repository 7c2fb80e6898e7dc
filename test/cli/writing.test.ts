/** Commands that write: outputs are those of the real qemu-img, and so is what is then in the files. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { luksOpts, makeFixtures, secret } from './fixtures.js';
import { copyDirectory, qcow2, qemuImg, removeDirectories, tool } from './run.js';
import type { Outcome } from './run.js';

let fixtures: string;
beforeAll(() => {
  fixtures = makeFixtures();
});
afterAll(() => removeDirectories(fixtures));

interface Case {
  args: readonly string[];
  /** A file that the command makes or changes, to be looked at with the real tools. */
  result?: string;
  /** `false` where the result cannot be read, as its backing file is missing. */
  readable?: false;
}

/** What the real qemu-img says of a file, without what depends on the medium. */
function examine(directory: string, file: string): unknown {
  if (!existsSync(join(directory, file))) return 'not there';
  const json = (command: string): unknown =>
    JSON.parse(tool('qemu-img', [command, '-U', '--output=json', file], directory));
  const info = json('info') as Record<string, unknown>;
  delete info['actual-size'];
  return info;
}

function same(title: string, cases: readonly Case[]): void {
  describe(title, () => {
    it.concurrent.each(cases.map((one) => [one.args.join(' '), one] as const))('%s', async (_, one) => {
      const theirs = copyDirectory(fixtures);
      const ours = copyDirectory(fixtures);
      try {
        await expectSame(one, theirs, ours);
      } finally {
        removeDirectories(theirs, ours);
      }
    });
  });
}

async function expectSame({ args, result, readable }: Case, theirs: string, ours: string): Promise<void> {
  const expected = withoutConsequences(await qemuImg(args, theirs));
  expect(await qcow2(args, ours)).toEqual(expected);
  if (result === undefined) return;
  expect(examine(ours, result)).toEqual(examine(theirs, result));
  if (expected.code !== 0 || readable === false) return;
  expect(contentEqual(ours, theirs, result)).toBe(true);
}

/** A repair of refcounts corrects flags that follow from them: counted by both programs, listed by qemu-img alone. */
function withoutConsequences(outcome: Outcome): Outcome {
  return { ...outcome, stderr: outcome.stderr.replaceAll(/^Repairing OFLAG_COPIED .*\n/gm, '') };
}

/** Whether the two files show a guest the same disk, and ours is sound. */
function contentEqual(ours: string, theirs: string, file: string): boolean {
  const isQcow2 = tool('qemu-img', ['info', file], ours).includes('file format: qcow2');
  if (isQcow2) tool('qemu-img', ['check', '-q', file], ours);
  return (
    tool('qemu-img', ['compare', join(ours, file), join(theirs, file)], ours) === 'Images are identical.\n'
  );
}

const createQcow2 = (...args: string[]): Case => ({
  args: ['create', '-f', 'qcow2', ...args],
  result: 'new',
});
const withOptions = (options: string): Case => createQcow2('-o', options, 'new', '1M');

same('create', [
  createQcow2('new', '1G'),
  createQcow2('new', '1.5G'),
  createQcow2('-q', 'new', '1G'),
  createQcow2('new', '0'),
  createQcow2('new', '1000'),
  { args: ['create', '-f', 'qcow2', 'empty.qcow2', '1M'], result: 'empty.qcow2' },
  createQcow2('-o', 'size=1G', 'new'),
  createQcow2('-o', 'size=1G', 'new', '2G'),
  createQcow2('-o', 'cluster_size=4k', 'new', '5G'),
  createQcow2('-u', 'new', '1M'),
  createQcow2('file:new', '1M'),
  createQcow2('-o', 'compat=v3', '-o', 'refcount_bits=1', 'new', '1M'),
  ...[
    'compat=0.10', 'compat=v2', 'compat=1.1', 'compat=v3', 'compat=2', 'compat', 'cluster_size=512', 'cluster_size=2M',
    'cluster_size=0.5M', 'cluster_size=5', 'cluster_size=4M', 'cluster_size=foo', 'cluster_size=', 'cluster_size',
    'cluster_size=-1', 'cluster_size=10E', 'cluster_size=100E', 'lazy_refcounts', 'lazy_refcounts=y',
    'lazy_refcounts=yes', 'lazy_refcounts=foo', 'nolazy_refcounts', 'refcount_bits=1', 'refcount_bits=64',
    'refcount_bits=0x10', 'refcount_bits=020', 'refcount_bits=3', 'refcount_bits=128', 'refcount_bits=-1',
    'refcount_bits=foo', 'refcount_bits=16k', 'compression_type=zstd', 'compression_type=foo', 'compression_type=',
    'extended_l2=on', 'extended_l2=on,cluster_size=4k', 'extended_l2=on,compat=0.10', 'compat=0.10,lazy_refcounts=on',
    'compat=0.10,refcount_bits=1', 'compat=0.10,compression_type=zstd', 'compat=v2,data_file=y',
    'preallocation=off', 'preallocation=metadata', 'preallocation=falloc', 'preallocation=full', 'preallocation=foo',
    'data_file=new.data', 'data_file=new.data,data_file_raw=on', 'data_file_raw=on', 'foo=1', 'nofoo', 'a=b,,c=d', '=b',
    ',', '', 'compat=v3,', ',compat=v3', 'compat=v3,compat=v2', 'nocow=on', 'nocow', 'extent_size_hint=1M', 'help=on',
    'encrypt.format=luks', 'encrypt.format=foo', 'encrypt.format=luks,encrypt.key-secret=s', 'encrypt.cipher-alg=aes-256',
    'encryption=on', 'encrypt.format=luks,encryption=on',
    'backing_file=', 'backing_file=missing,backing_fmt=raw', 'backing_file=data.qcow2', 'backing_fmt=raw',
    'backing_file=data.qcow2,backing_fmt=qcow2,preallocation=metadata',
  ].map(withOptions), // prettier-ignore
  createQcow2('-b', 'data.qcow2', '-F', 'qcow2', 'new'),
  createQcow2('-b', 'data.qcow2', '-F', 'qcow2', 'new', '2G'),
  createQcow2('-b', 'sparse.raw', '-F', 'raw', 'new'),
  createQcow2('-b', './sub/base.qcow2', '-F', 'qcow2', 'new'),
  createQcow2('-b', 'sparse.raw', 'new'),
  createQcow2('-b', 'data.qcow2', 'new', '1M'),
  createQcow2('-b', 'sparse.raw', '-F', 'qcow2', 'new'),
  createQcow2('-b', 'sparse.raw', '-F', 'foo', 'new', '1M'),
  createQcow2('-b', 'missing', '-F', 'raw', 'new'),
  createQcow2('-b', 'missing', '-F', 'raw', 'new', '1M'),
  createQcow2('-b', 'missing', '-F', 'raw', '-u', 'new'),
  { ...createQcow2('-b', 'missing', '-F', 'raw', '-u', 'new', '1M'), readable: false },
  createQcow2('-b', 'missing', '-u', 'new', '1M'),
  { ...createQcow2('-b', 'a,b', '-F', 'raw', '-u', 'new', '1M'), readable: false },
  createQcow2('-b', 'orphan.qcow2', '-F', 'qcow2', 'new'),
  createQcow2('-b', 'sub', '-F', 'raw', 'new'),
  createQcow2('-b', 'foo:bar', '-F', 'raw', 'new'),
  createQcow2('-b', '', '-F', 'raw', 'new', '1M'),
  createQcow2('-b', 'new', '-F', 'raw', 'new', '1M'),
  createQcow2('-F', 'raw', 'new', '1M'),
  { args: ['create', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'sub/new'], result: 'sub/new' },
  { args: ['create', '-f', 'qcow2', '-b', 'missing', '-F', 'raw', 'sub/new', '1M'], result: 'sub/new' },
  createQcow2('new'),
  createQcow2(),
  createQcow2('new', '1G', 'foo'),
  createQcow2('new', '1X'),
  createQcow2('new', '-1'),
  createQcow2('new', '--', '-1'),
  createQcow2('new', '9E'),
  createQcow2('new', '7E'),
  createQcow2('-o', 'cluster_size=1k', 'new', '3P'),
  createQcow2('nodir/new', '1M'),
  createQcow2('sub', '1M'),
  createQcow2('foo:new', '1M'),
  { args: ['create', '-f', 'qcow2', '-o', 'help'] },
  { args: ['create', '-f', 'qcow2', '-o', 'foo=1,help', 'new', '1M'] },
  { args: ['create', 'new', '1M'], result: 'new' },
  { args: ['create', 'new', '1000'], result: 'new' },
  { args: ['create', '-f', 'raw', 'sparse.raw', '3M'], result: 'sparse.raw' },
  ...['falloc', 'full', 'off', 'zz'].map((mode) => ({
    args: ['create', '-f', 'raw', '-o', `preallocation=${mode}`, 'new', '1M'],
    result: 'new',
  })),
  { args: ['create', '-f', 'raw', '-o', 'preallocation=metadata', 'new', '1M'] },
  { args: ['create', '-f', 'raw', '-o', 'nocow=on,extent_size_hint=1M,preallocation=off', 'new', '1M'] },
  { args: ['create', '-f', 'raw', '-o', 'cluster_size=64k', 'new', '1M'], result: 'new' },
  { args: ['create', '-f', 'raw', '-b', 'sparse.raw', '-F', 'raw', 'new', '1M'], result: 'new' },
  { args: ['create', '-f', 'raw', '-F', 'raw', 'new', '1M'], result: 'new' },
  { args: ['create', '-f', 'raw', 'new', '7E'] },
  { args: ['create', '-f', 'raw', 'nodir/new', '1M'] },
  { args: ['create', '-f', 'foo', 'new', '1M'], result: 'new' },
  { args: ['create', '-f', 'foo', '-o', 'help'] },
  { args: ['create', '-f', 'raw', '-o', 'help'] },
]);

const resize = (file: string, ...args: string[]): Case => ({ args: ['resize', ...args], result: file });

same('resize', [
  ...[
    '2G',
    '+1G',
    '1G',
    '-1G',
    '-10M',
    '-10G',
    '+0',
    '0',
    'foo',
    '+foo',
    '',
    '8E',
    '+9E',
    '1.5G',
    '1000',
  ].flatMap((size) => [
    resize('data.qcow2', 'data.qcow2', size),
    resize('data.qcow2', '--shrink', 'data.qcow2', size),
  ]),
  resize('data.qcow2', 'data.qcow2', '1E'),
  resize('data.qcow2', '-q', 'data.qcow2', '2G'),
  resize('data.qcow2', '-f', 'qcow2', 'data.qcow2', '2G'),
  resize('data.qcow2', 'data.qcow2', '--', '-10G'),
  ...['off', 'metadata', 'falloc', 'full', 'foo'].flatMap((mode) => [
    resize('data.qcow2', `--preallocation=${mode}`, 'data.qcow2', '+1M'),
    resize('sparse.raw', `--preallocation=${mode}`, '-f', 'raw', 'sparse.raw', '+1M'),
    resize('data.qcow2', `--preallocation=${mode}`, '--shrink', 'data.qcow2', '-1M'),
  ]),
  ...[
    'small.qcow2',
    'extended.qcow2',
    'v2.qcow2',
    'overlay.qcow2',
    'external.qcow2',
    'rawexternal.qcow2',
  ].flatMap((file) => [resize(file, file, '+5M'), resize(file, '--shrink', file, '-512k')]),
  resize('onraw.qcow2', 'onraw.qcow2', '3M'),
  resize('sparse.raw', 'sparse.raw', '2M'),
  resize('sparse.raw', '-f', 'raw', 'sparse.raw', '10k'),
  resize('sparse.raw', '-f', 'raw', '--shrink', 'sparse.raw', '10k'),
  resize('sparse.raw', '-f', 'raw', 'sparse.raw', '+1'),
  resize('dirty.qcow2', 'dirty.qcow2', '2G'),
  resize('corrupt.qcow2', 'corrupt.qcow2', '2G'),
  resize('missing', 'missing', '2G'),
  { ...resize('luks.qcow2', ...secret, '--image-opts', luksOpts, '2M'), readable: false },
  { args: ['resize'] },
  { args: ['resize', 'data.qcow2'] },
  { args: ['resize', '2G', 'data.qcow2'] },
  { args: ['resize', 'data.qcow2', '+1G', '+1G'] },
  { args: ['resize', 'data.qcow2', '1G', '--shrink', '-q'] },
  { args: ['resize', '-x', 'data.qcow2', '1G'] },
  { args: ['resize', 'data.qcow2', '-x', '1G'] },
]);

same('check -r', [
  ...['leak.qcow2', 'shared.qcow2', 'empty.qcow2', 'dirty.qcow2', 'corrupt.qcow2'].flatMap((file) =>
    ['leaks', 'all'].flatMap((what) => [
      { args: ['check', '-r', what, file], result: file },
      { args: ['check', '-r', what, '--output=json', file] },
      { args: ['check', '-q', `--repair=${what}`, file] },
    ]),
  ),
]);

const convert = (...args: string[]): Case => ({ args: ['convert', ...args, 'new'], result: 'new' });

same('convert', [
  ...[
    'empty.qcow2', 'v2.qcow2', 'data.qcow2', 'small.qcow2', 'extended.qcow2', 'compressed.qcow2', 'overlay.qcow2',
    'sub/top.qcow2', 'sparse.raw', 'onraw.qcow2', 'external.qcow2', 'states.qcow2', 'odd.qcow2', 'zero.qcow2',
  ].flatMap((file) => [convert('-O', 'qcow2', file), convert(file), convert('-c', '-O', 'qcow2', file)]), // prettier-ignore
  convert('-O', 'qcow2', '-o', 'compat=v2,cluster_size=4k', 'sparse.raw'),
  convert('-O', 'qcow2', '-o', 'extended_l2=on,compression_type=zstd,refcount_bits=64', 'sparse.raw'),
  convert('-O', 'qcow2', '-c', '-o', 'compression_type=zstd', 'small.qcow2'),
  convert('-O', 'qcow2', '-o', 'preallocation=metadata', 'sparse.raw'),
  convert('-O', 'qcow2', '-o', 'size=10M', 'sparse.raw'),
  convert('-O', 'qcow2', '-o', 'data_file=new.data', 'sparse.raw'),
  convert('-O', 'raw', '-o', 'preallocation=full', 'sparse.raw'),
  convert('-S', '0', '-O', 'qcow2', 'sparse.raw'),
  convert('-S', '0', 'sparse.raw'),
  convert('-S', '64k', '-O', 'qcow2', 'small.qcow2'),
  convert('-m', '1', '-W', '-C', '-t', 'none', '-T', 'none', '-U', '-q', '-p', '-O', 'qcow2', 'small.qcow2'),
  convert('-B', 'data.qcow2', '-F', 'qcow2', '-O', 'qcow2', 'overlay.qcow2'),
  convert('-O', 'qcow2', '-o', 'backing_file=data.qcow2,backing_fmt=qcow2', 'overlay.qcow2'),
  convert(...secret, '-O', 'raw', '--image-opts', luksOpts),
  { args: ['convert', '-n', '-O', 'qcow2', 'sparse.raw', 'empty.qcow2'], result: 'empty.qcow2' },
  { args: ['convert', '-n', '-O', 'raw', 'sub/top.qcow2', 'sparse.raw'], result: 'sparse.raw' },
  { args: ['convert', '-n', '-O', 'qcow2', 'data.qcow2', 'sub/base.qcow2'] },
  { args: ['convert', '-n', '-O', 'qcow2', 'data.qcow2', 'missing'] },
  { args: ['convert', '-n', '-O', 'qcow2', 'data.qcow2', 'sparse.raw'] },
  { args: ['convert', '-O', 'qcow2', 'sparse.raw', 'sparse.raw'], result: 'sparse.raw' },
  { args: ['convert', '-n', '-O', 'raw', 'sparse.raw', 'sparse.raw'], result: 'sparse.raw' },
  { args: ['convert'] },
  { args: ['convert', 'data.qcow2'] },
  convert('-c', '-O', 'raw', 'sparse.raw'),
  convert('-O', 'foo', 'sparse.raw'),
  convert('-f', 'foo', 'sparse.raw'),
  convert('-f', 'qcow2', 'sparse.raw'),
  convert('-O', 'foo', '-f', 'foo', 'missing'),
  convert('-O', 'foo', 'missing'),
  convert('-O', 'qcow2', '-o', 'foo=1', 'missing'),
  convert('-O', 'qcow2', '-o', 'foo=1', 'sparse.raw'),
  convert('-O', 'qcow2', '-o', 'cluster_size=3', 'sparse.raw'),
  convert('-O', 'qcow2', '-o', 'compat=zz', 'sparse.raw'),
  convert('-O', 'qcow2', '-o', ',', 'sparse.raw'),
  convert('-O', 'qcow2', '-o', 'encrypt.format=luks', 'sparse.raw'),
  convert('-O', 'qcow2', '-c', '-o', 'encrypt.format=luks', 'sparse.raw'),
  convert('-O', 'qcow2', '-c', '-o', 'preallocation=full', 'sparse.raw'),
  convert('-O', 'qcow2', '-n', '-o', 'compat=v2', 'sparse.raw'),
  convert('-O', 'qcow2', 'orphan.qcow2'),
  convert('-O', 'qcow2', 'luks.qcow2'),
  convert('-O', 'qcow2', 'sub'),
  convert('-B', 'data.qcow2', '-O', 'qcow2', 'overlay.qcow2'),
  convert('-B', 'data.qcow2', '-F', 'foo', '-O', 'qcow2', 'overlay.qcow2'),
  convert('-B', 'data.qcow2', '-F', 'qcow2', 'overlay.qcow2'),
  convert('-F', 'qcow2', '-O', 'qcow2', 'overlay.qcow2'),
  convert('-O', 'qcow2', '-o', 'backing_file=data.qcow2', 'overlay.qcow2'),
  convert('-C', '-S', '4k', 'sparse.raw'),
  convert('-C', '-c', '-O', 'qcow2', 'sparse.raw'),
  ...['foo', '5', '-1', '4G', '1000'].map((size) => convert('-S', size, 'sparse.raw')),
  ...['0', '17', 'foo', '-1', ''].map((count) => convert('-m', count, 'sparse.raw')),
  { args: ['convert', '-t', 'foo', 'sparse.raw', 'new'] },
  convert('-T', 'foo', 'sparse.raw'),
  convert('-t', 'foo', 'missing'),
  convert('--image-opts', 'empty.qcow2'),
  convert('-6', 'sparse.raw'),
  { args: ['convert', '-c', '-p', '-S'] },
  { args: ['convert', 'sparse.raw', 'nodir/new'] },
  { args: ['convert', '-O', 'qcow2', 'sparse.raw', 'nodir/new'] },
  { args: ['convert', 'sparse.raw', 'sub'] },
  { args: ['convert', 'sparse.raw', ''] },
  { args: ['convert', '', 'new'] },
  { args: ['convert', 'sparse.raw', 'foo:bar'] },
  { args: ['convert', '-O', 'qcow2', '-o', 'help'] },
  { args: ['convert', '-O', 'qcow2', '-o', 'compat=v2,help', 'sparse.raw', 'new'] },
  { args: ['convert', '-O', 'foo', '-o', 'help'] },
]);

it('convert -p tells how far it is, from nothing to all', async () => {
  const { stdout } = await qcow2(['convert', '-p', '-O', 'qcow2', 'data.qcow2', 'with-progress'], fixtures);
  expect(stdout).toMatch(/^ {4}\(0\.00\/100%\)\r( {4}\(\d+\.\d\d\/100%\)\r)*\n$/);
  expect(stdout).toMatch(/ {4}\(100\.00\/100%\)\r\n$/);
});
