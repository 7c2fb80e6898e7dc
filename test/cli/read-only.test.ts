/** Commands that only look: every output is that of the real qemu-img, byte for byte. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { luksOpts, makeFixtures, secret } from './fixtures.js';
import { qcow2, qemuImg, removeDirectories } from './run.js';

let directory: string;
beforeAll(() => {
  directory = makeFixtures();
});
afterAll(() => removeDirectories(directory));

function same(title: string, table: readonly (readonly string[])[]): void {
  describe(title, () => {
    it.concurrent.each(table.map((args) => [args.join(' ') || '(nothing)', args] as const))(
      '%s',
      async (_, args) => {
        expect(await qcow2(args, directory)).toEqual(await qemuImg(args, directory));
      },
    );
  });
}

const images = [
  'empty.qcow2', 'v2.qcow2', 'zero.qcow2', 'odd.qcow2', 'data.qcow2', 'small.qcow2', 'extended.qcow2', 'compressed.qcow2',
  'overlay.qcow2', 'sub/base.qcow2', 'sub/top.qcow2', 'sparse.raw', 'onraw.qcow2', 'external.qcow2', 'rawexternal.qcow2',
  'states.qcow2', 'dirty.qcow2', 'corrupt.qcow2', 'text.raw', 'we"ird\\ nämé.qcow2',
]; // prettier-ignore
const locked = ['luks.qcow2', 'aes.qcow2'];
const unusual = ['orphan.qcow2', 'missing', 'sub', ''];

same('info', [
  ...[...images, ...locked, ...unusual].flatMap((image) => [
    ['info', image],
    ['info', '--output=json', image],
  ]),
  ...[...images, 'orphan.qcow2', 'missing'].flatMap((image) => [
    ['info', '--backing-chain', image],
    ['info', '--backing-chain', '--output', 'json', image],
  ]),
  ['info', '-f', 'qcow2', 'sparse.raw'],
  ['info', '-f', 'qcow2', 'nothing.qcow2'],
  ['info', '-f', 'raw', 'empty.qcow2'],
  ['info', '-f', 'vmdk', 'empty.qcow2'].map((word) => word.replace('vmdk', 'nonsense')),
  ['info', '-U', 'empty.qcow2'],
  ['info', '--force-share', 'empty.qcow2'],
  ['info', 'file:empty.qcow2'],
  ['info', 'nonsense:empty.qcow2'],
  ['info', './sub/../sub/top.qcow2'],
]);

same('info of images named by options', [
  ['info', '--image-opts', 'driver=qcow2,file.filename=empty.qcow2'],
  ['info', '--image-opts', 'driver=qcow2,file.driver=file,file.filename=empty.qcow2'],
  ['info', '--image-opts', 'driver=raw,file.filename=empty.qcow2'],
  ['info', '--image-opts', 'file.filename=empty.qcow2'],
  ['info', '--image-opts', 'driver=qcow2,file.filename=empty.qcow2,lazy-refcounts=on,read-only=on'],
  ['info', ...secret, '--image-opts', luksOpts],
  ['info', ...secret, '--output=json', '--image-opts', luksOpts],
  ['info', '--image-opts', 'driver=qcow2,file.filename=a,,b.qcow2'],
  ['info', '--image-opts', 'driver=qcow2'],
  ['info', '--image-opts', 'driver=nonsense,file.filename=empty.qcow2'],
  ['info', '--image-opts', 'driver=qcow2,file.driver=nonsense,file.filename=empty.qcow2'],
  ['info', '--image-opts', 'filename=empty.qcow2'],
  ['info', '--image-opts', 'empty.qcow2'],
  ['info', '--image-opts', 'driver=qcow2,file=empty.qcow2'],
  ['info', '--image-opts', 'driver=qcow2,file.filename=empty.qcow2,foo=bar'],
  ['info', '--image-opts', 'driver=qcow2,file.filename=empty.qcow2,file.foo=bar'],
  ['info', '--image-opts', ''],
  ['info', 'json:{"driver":"qcow2","file.filename":"empty.qcow2"}'],
  ['info', 'json:{"driver":"qcow2","file":{"driver":"file","filename":"empty.qcow2"}}'],
  ['info', 'json:{"driver":"qcow2","file":"empty.qcow2"}'],
  ['info', 'json:{}'],
  ['info', 'json:[]'],
]);

same('map', [
  ...[...images, 'orphan.qcow2', 'missing'].map((image) => ['map', image]),
  // Of subclusters that a cluster has but does not use, qemu-img tells the place.
  ...[...images, 'orphan.qcow2', 'missing']
    .filter((image) => image !== 'extended.qcow2')
    .map((image) => ['map', '--output=json', image]),
  ['map', ...secret, '--image-opts', luksOpts],
  ['map', ...secret, '--output=json', '--image-opts', luksOpts],
  ['map', '-s', '20M', '-l', '10M', 'overlay.qcow2'],
  ['map', '-s', '20M', '-l', '10M', '--output=json', 'overlay.qcow2'],
  ['map', '-s', '1', '-l', '5', '--output=json', 'data.qcow2'],
  ['map', '-s', '131073', '-l', '5', 'data.qcow2'],
  ['map', '--start-offset=20M', '--max-length=1', '--output=json', 'overlay.qcow2'],
  ['map', '-s', '2G', 'data.qcow2'],
  ['map', '-s', '2G', '--output=json', 'data.qcow2'],
  ['map', '-l', '0', '--output=json', 'data.qcow2'],
  ['map', '-l', '5P', '--output=json', 'data.qcow2'],
  ['map', '-s', 'foo', 'data.qcow2'],
  ['map', '-l', 'foo', 'data.qcow2'],
  ['map', '-s', '10E', 'data.qcow2'],
  ['map', '--output=xml', 'data.qcow2'],
  ['map'],
  ['map', 'data.qcow2', 'empty.qcow2'],
]);

same('check', [
  ...[...images, 'leak.qcow2', 'shared.qcow2', 'missing'].flatMap((image) => [
    ['check', image],
    ['check', '--output=json', image],
    ['check', '-q', image],
  ]),
  ['check', ...secret, '--image-opts', luksOpts],
  ['check', ...secret, '--output=json', '--image-opts', luksOpts],
  ['check', '--object', 'secret,id=s,data=wrong', '--image-opts', luksOpts],
  ['check', '--image-opts', luksOpts],
  ['check', '-r', 'nonsense', 'empty.qcow2'],
  ['check', '-r'],
  ['check', '-T', 'nonsense', 'empty.qcow2'],
  ['check', '-T', 'none', 'empty.qcow2'],
  ['check', '-U', 'empty.qcow2'],
  ['check', '-U', '-r', 'all', 'empty.qcow2'],
  ['check', '-f', 'raw', 'empty.qcow2'],
  ['check', '--output=xml', 'empty.qcow2'],
  ['check'],
  ['check', 'empty.qcow2', 'data.qcow2'],
]);

it('map needs no passphrase to tell where things are', async () => {
  const withSecret = ['map', ...secret, '--output=json', '--image-opts', luksOpts];
  expect(await qcow2(['map', '--output=json', 'luks.qcow2'], directory)).toEqual(
    await qemuImg(withSecret, directory),
  );
});

it('check needs neither a passphrase nor a backing file', async () => {
  const withSecret = ['check', ...secret, '--image-opts', luksOpts];
  expect(await qcow2(['check', 'luks.qcow2'], directory)).toEqual(await qemuImg(withSecret, directory));
  const { code, stdout } = await qcow2(['check', 'orphan.qcow2'], directory);
  expect(code).toBe(0);
  expect(stdout).toBe('No errors were found on the image.\nImage end offset: 262144\n');
});

same('wrong command lines', [
  [],
  ['nonsense'],
  [''],
  ['-z'],
  ['-q', 'info'],
  ['--nonsense', 'info'],
  ['-T'],
  ['--trace'],
  ['info'],
  ['info', '-z', 'empty.qcow2'],
  ['info', '-Uz', 'empty.qcow2'],
  ['info', 'empty.qcow2', '-z', '-U'],
  ['info', '--nonsense=1', 'empty.qcow2'],
  ['info', '--backing-chain=1', 'empty.qcow2'],
  ['info', '--f=qcow2', 'empty.qcow2'],
  ['info', '--form=qcow2', 'empty.qcow2'],
  ['info', '--outp=json', 'empty.qcow2'],
  ['info', '--output'],
  ['info', '--output', 'foo', 'empty.qcow2'],
  ['info', '--output', 'foo', '-f', 'nonsense', 'missing'],
  ['info', '--output=json', '--output=human', 'empty.qcow2'],
  ['info', '-f'],
  ['info', '-Uf'],
  ['info', '-f', 'raw', '-fqcow2', 'empty.qcow2'],
  ['info', '--', 'empty.qcow2'],
  ['info', '--', '-U'],
  ['info', '-'],
  ['info', 'empty.qcow2', 'data.qcow2'],
]);

same('secrets', [
  ['info', '--object', 'secret,id=s', 'empty.qcow2'],
  ['info', '--object', 'secret,data=foo', 'empty.qcow2'],
  ['info', '--object', 'nonsense,id=s,data=foo', 'empty.qcow2'],
  ['info', '--object', 'secret,id=s,file=missing', 'empty.qcow2'],
  ['info', '--object', 'secret,id=s,file=a,data=b', 'empty.qcow2'],
  ['info', '--object', 'secret,id=s,foo=b,data=b', 'empty.qcow2'],
  ['info', '--object', 'id=s,data=b', 'empty.qcow2'],
  ['info', '--object', 'secret,id=s,data=!!!,format=base64', 'empty.qcow2'],
  ['info', '--object', 'secret,id=s,data=Zm9v,format=base64', 'empty.qcow2'],
  ['info', '--object', 'secret,id=s,data=Zm9v,format=xx', 'empty.qcow2'],
  ['info', '--object', 'secret,id=s,data=a', '--object', 'secret,id=s,data=b', 'empty.qcow2'],
  ['info', '--object', 'secret,id=1s,data=a', 'empty.qcow2'],
  ['info', '--object', '{"qom-type":"secret","id":"s","data":"foo"}', 'empty.qcow2'],
]);
