/** `convert` of snapshots, bitmaps, several sources and damaged ones, held against the real qemu-img. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { makeFixtures } from './fixtures.js';
import { qcow2, qemuImg, removeDirectories } from './run.js';
import { prepareFixtures, sameResult } from './same.js';

prepareFixtures();

sameResult(
  'convert',
  `
  -r 100M -O qcow2 small.qcow2 new
  -r foo -O qcow2 small.qcow2 new
  -r 0 small.qcow2 new
  -l first -O qcow2 states.qcow2 new
  -l snapshot.name=first -O qcow2 states.qcow2 new
  -l snapshot.id=1 -O qcow2 states.qcow2 new
  -l nope -O qcow2 states.qcow2 new
  -l snapshot.foo=nope -O qcow2 states.qcow2 new
  -l snapshot.id=9,snapshot.name=first -O qcow2 states.qcow2 new
  -l first sparse.raw new
  -l first data.qcow2 states.qcow2 new
  -s first states.qcow2 new
  --bitmaps -O qcow2 states.qcow2 new
  --bitmaps --skip-broken-bitmaps -O qcow2 states.qcow2 new
  --skip-broken-bitmaps -O qcow2 states.qcow2 new
  --bitmaps sparse.raw -O qcow2 new
  --bitmaps -O qcow2 data.qcow2 states.qcow2 new
  --bitmaps -l first -O qcow2 states.qcow2 new
  --salvage -O qcow2 data.qcow2 new
  --salvage -C -O qcow2 data.qcow2 new
  --target-is-zero -O qcow2 data.qcow2 new
  --target-is-zero -n -O qcow2 data.qcow2 empty.qcow2
  --target-image-opts sparse.raw driver=raw,file.filename=new
  --target-image-opts -n sparse.raw driver=raw,file.filename=external.data
  --target-image-opts -n -O raw sparse.raw driver=raw,file.filename=external.data
  --target-image-opts -n sparse.raw driver=qcow2,file.filename=empty.qcow2
  --image-opts --target-image-opts -n driver=raw,file.filename=sparse.raw driver=qcow2,file.filename=empty.qcow2
  --image-opts -f raw sparse.raw new
  sparse.raw text.raw new
  sparse.raw text.raw data.qcow2 -O qcow2 new
  small.qcow2 sparse.raw onraw.qcow2 -O qcow2 new
  small.qcow2 compressed.qcow2 -c -O qcow2 new
  -f raw small.qcow2 sparse.raw new
  -B data.qcow2 -F qcow2 -O qcow2 overlay.qcow2 sparse.raw new
  -o backing_file=data.qcow2,backing_fmt=qcow2 -B data.qcow2 -O qcow2 overlay.qcow2 new
  -f raw -O qcow2 sub/top.qcow2 new
  -f raw -O raw sub/top.qcow2 new
  -f raw -n -O raw sub/top.qcow2 data.qcow2
  -p missing new
  sparse.raw missing new
  -c sparse.raw text.raw new
  --bitmaps -O qcow2 v2.qcow2 new
  --bitmaps -O qcow2 data.qcow2 new
`,
);

it('convert --salvage goes on behind a damaged entry, with zeros', async () => {
  const directory = makeFixtures();
  const image = readFileSync(join(directory, 'data.qcow2'));
  const l1Offset = Number(image.readBigUInt64BE(40));
  const l2Offset = Number(image.readBigUInt64BE(l1Offset) & 0xfffffffffffe00n);
  image.writeBigUInt64BE(0x8000000000000201n, l2Offset + 3 * 8);
  writeFileSync(join(directory, 'broken.qcow2'), image);
  expect((await qcow2(['convert', 'broken.qcow2', 'ours'], directory)).code).toBe(1);
  const { code, stderr } = await qcow2(['convert', '--salvage', 'broken.qcow2', 'ours'], directory);
  expect(code).toBe(0);
  expect(stderr).toContain('warning: error while reading offset 196608:');
  await qemuImg(['convert', '--salvage', 'broken.qcow2', 'theirs'], directory);
  expect((await qemuImg(['compare', '-f', 'raw', '-F', 'raw', 'ours', 'theirs'], directory)).stdout).toBe(
    'Images are identical.\n',
  );
  removeDirectories(directory);
});

it('compresses harder at a higher level, and refuses levels that there are not', async () => {
  const directory = makeFixtures();
  // Machine code compresses the better the longer one looks for repetitions.
  writeFileSync(join(directory, 'program.raw'), readFileSync(process.execPath).subarray(0, 2 ** 21));
  const compress = (...options: string[]): ReturnType<typeof qcow2> =>
    qcow2(['convert', '-c', '-f', 'raw', '-O', 'qcow2', ...options], directory);
  const level = '--compression-level';
  expect((await compress(level, '1', 'program.raw', 'quick')).code).toBe(0);
  expect((await compress(level, '12', 'program.raw', 'small')).code).toBe(0);
  const length = (name: string): number => readFileSync(join(directory, name)).length;
  expect(length('small')).toBeLessThan(length('quick'));
  expect((await qemuImg(['compare', 'quick', 'small'], directory)).stdout).toBe('Images are identical.\n');
  for (const [options, complaint] of [
    [[level, '13', 'program.raw', 'new'], "Invalid compression level '13': zlib has levels from 1 to 12"],
    [[level, 'best', 'program.raw', 'new'], "Invalid compression level 'best'"],
    [['-o', 'compression_type=zstd', level, '23', 'program.raw', 'new'], 'zstd has levels from 1 to 22'],
  ] as const) {
    const { code, stderr } = await compress(...options);
    expect(code).toBe(1);
    expect(stderr).toContain(complaint);
  }
  const plain = await qcow2(
    ['convert', '-f', 'raw', '-O', 'qcow2', level, '3', 'program.raw', 'new'],
    directory,
  );
  expect(plain.code).toBe(1);
  expect(plain.stderr).toContain('has no meaning without -c');
  removeDirectories(directory);
});
