/** Images of every kind the command line meets, made by the real qemu-img. */
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { makeDirectory, tool } from './run.js';

/** The passphrase of the encrypted images, as an option. */
export const secret = ['--object', 'secret,id=s,data=geheim'];
export const luksOpts = 'driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=s';

export function makeFixtures(): string {
  const directory = makeDirectory();
  const img = (...args: string[]): string => tool('qemu-img', args, directory);
  const io = (file: string, ...commands: string[]): string =>
    tool('qemu-io', [...commands.flatMap((command) => ['-c', command]), file], directory);
  const create = (file: string, size: string, options = 'compat=1.1'): string =>
    img('create', '-q', '-f', 'qcow2', '-o', options, file, size);

  create('empty.qcow2', '1G');
  create('v2.qcow2', '64M', 'compat=0.10');
  create('zero.qcow2', '0');
  create('odd.qcow2', '1000');
  create('data.qcow2', '1G');
  io('data.qcow2', 'write 0 1M', 'write 10M 64k', 'write 5M 64k', 'write -z 20M 1M', 'write -z 0 64k', 'discard 64k 64k');
  create('small.qcow2', '8M', 'cluster_size=4k,refcount_bits=1,lazy_refcounts=on,compression_type=zstd');
  io('small.qcow2', 'write 0 10k', 'write 1M 3M', 'write 100k 1k');
  create('extended.qcow2', '8M', 'extended_l2=on,cluster_size=128k');
  io('extended.qcow2', 'write 0 4k', 'write 1M 300k', 'write -z 2M 12k');
  create('preallocated.qcow2', '4M', 'preallocation=metadata');
  io('preallocated.qcow2', 'write 64k 8k', 'write 1M 300k', 'write -z 2M 12k');
  create('reserved.qcow2', '4M', 'preallocation=metadata,extended_l2=on,data_file=reserved.data');
  io('reserved.qcow2', 'write 64k 8k', 'write -z 2M 12k');
  img('convert', '-c', '-O', 'qcow2', 'data.qcow2', 'compressed.qcow2');
  img('create', '-q', '-f', 'qcow2', '-b', 'data.qcow2', '-F', 'qcow2', 'overlay.qcow2');
  io('overlay.qcow2', 'write 30M 64k', 'write -z 0 128k');
  img('create', '-q', '-f', 'qcow2', '-u', '-b', 'missing', '-F', 'qcow2', 'orphan.qcow2', '1G');
  mkdirSync(join(directory, 'sub'));
  create('sub/base.qcow2', '1M');
  img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'sub/top.qcow2');
  makeRaw(join(directory, 'sparse.raw'));
  img('create', '-q', '-f', 'qcow2', '-b', 'sparse.raw', '-F', 'raw', 'onraw.qcow2', '2M');
  io('onraw.qcow2', 'write 0 4k');
  create('external.qcow2', '1M', 'data_file=external.data');
  io('external.qcow2', 'write 128k 64k');
  create('rawexternal.qcow2', '1M', 'data_file=rawexternal.data,data_file_raw=on');
  makeLuks(img);
  tool('qemu-io', [...secret, '--image-opts', luksOpts, '-c', 'write 64k 100k'], directory);
  img('create', '-q', ...secret, '-f', 'qcow2', '-o', 'encrypt.format=aes,encrypt.key-secret=s', 'aes.qcow2', '1M');
  create('states.qcow2', '1M');
  img('snapshot', '-c', 'first', 'states.qcow2');
  io('states.qcow2', 'write 0 64k');
  img('snapshot', '-c', 'a snapshot with quite a long name', 'states.qcow2');
  img('bitmap', '--add', 'states.qcow2', 'tracking');
  img('bitmap', '--add', '-g', '1M', '--disable', 'states.qcow2', 'still');
  makeBroken(directory);
  return directory;
} // prettier-ignore

/** A busy machine lets qemu-img measure no CPU time, and then it gives up: tried again until it can. */
function makeLuks(img: (...args: string[]) => string): void {
  const options = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=50';
  for (let attempt = 1; ; attempt += 1) {
    try {
      img('create', '-q', ...secret, '-f', 'qcow2', '-o', options, 'luks.qcow2', '1M');
      return;
    } catch (error) {
      if (attempt === 10) throw error;
    }
  }
}

/** 1 MiB with data in two places and holes around it. */
function makeRaw(path: string): void {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, 1024 * 1024);
  writeSync(fd, Buffer.alloc(5000, 'x'), 0, 5000, 98304);
  writeSync(fd, Buffer.from('y'), 0, 1, 900000);
  closeSync(fd);
}

function makeBroken(directory: string): void {
  const at = (name: string): string => join(directory, name);
  const patch = (from: string, to: string, change: (image: Buffer) => Buffer | undefined): void => {
    const image = readFileSync(at(from));
    writeFileSync(at(to), change(image) ?? image);
  };
  const cluster = 65536;
  const refcountBlock = (image: Buffer): number =>
    Number(image.readBigUInt64BE(Number(image.readBigUInt64BE(48))));
  const firstL2 = (image: Buffer): number =>
    Number(image.readBigUInt64BE(Number(image.readBigUInt64BE(40))) & 0xfffffffffffe00n);

  patch('empty.qcow2', 'dirty.qcow2', (image) => void image.writeUInt8(1, 79));
  patch('empty.qcow2', 'corrupt.qcow2', (image) => void image.writeUInt8(2, 79));
  patch('empty.qcow2', 'cut.qcow2', (image) => image.subarray(0, 50));
  patch('data.qcow2', 'leak.qcow2', (image) => {
    const clusters = Math.ceil(image.length / cluster);
    image.writeUInt16BE(1, refcountBlock(image) + 2 * (clusters + 3));
    return Buffer.concat([image, Buffer.alloc((clusters + 5) * cluster - image.length)]);
  });
  patch('data.qcow2', 'shared.qcow2', (image) => {
    // Two guest clusters in one host cluster, whose refcount is 1; the other is lost.
    image.copy(image, firstL2(image) + 3 * 8, firstL2(image) + 2 * 8, firstL2(image) + 3 * 8);
    return undefined;
  });
  writeFileSync(at('nothing.qcow2'), '');
  writeFileSync(at('text.raw'), 'hello\n');
  copyFileSync(at('empty.qcow2'), at('we"ird\\ nämé.qcow2'));
}
