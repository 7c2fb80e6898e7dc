// The images that are measured with: each is made when first asked for, and kept for the next run.
import { existsSync, openSync, closeSync, readSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { craftQcow2 } from './crafted-qcow2.mjs';
import { run } from './process.mjs';
import { random } from './random.mjs';
import { mixedRaw, noiseBytes } from './raw-disk.mjs';

const GiB = 2 ** 30;

/** Bytes, scaled, in whole MiB. */
const scaled = (bytes, scale) => Math.max(1, Math.round((bytes * scale) / 2 ** 20)) * 2 ** 20;

const fromMixed =
  (...options) =>
  (path, { image }) =>
    run(
      'qemu-img',
      'convert',
      '-W',
      '-m',
      '16',
      '-f',
      'raw',
      '-O',
      'qcow2',
      ...options,
      image('mixed.raw'),
      path,
    );

/** Names an image to qemu-img with caches that hold all of its tables: not what anyone types, but the fastest that it can be. */
export const cached = (path) => [
  '--image-opts',
  `driver=qcow2,l2-cache-size=128M,refcount-cache-size=64M,file.driver=file,file.filename=${path}`,
];

/** How each image is made: at `path`, from the size factor and other images. */
const makers = {
  'mixed.raw': (path, { scale }) => mixedRaw(path, scaled(8 * GiB, scale), scaled(2 * GiB, scale)),
  'mixed.qcow2': fromMixed(),
  'zlib.qcow2': fromMixed('-c'),
  'zstd.qcow2': fromMixed('-c', '-o', 'compression_type=zstd'),
  'metadata.qcow2': (path, { scale }) =>
    craftQcow2(path, { size: scaled(1024 * GiB, scale), clusterSize: 65536 }),
  'ordered.qcow2': (path, { scale }) =>
    craftQcow2(path, { size: scaled(64 * GiB, scale), clusterSize: 65536, every: 2 }),
  'shuffled.qcow2': (path, { scale }) =>
    craftQcow2(path, { size: scaled(64 * GiB, scale), clusterSize: 65536, every: 2, shuffleSeed: 2 }),
  'shuffled-4k.qcow2': (path, { scale }) => {
    const noise = noiseBytes(random(3), 2 ** 20);
    craftQcow2(path, {
      size: scaled(4 * GiB, scale),
      clusterSize: 4096,
      every: 2,
      shuffleSeed: 4,
      fill: (cluster, guest) => {
        const from = (guest * 512) % (noise.length - cluster.length);
        noise.copy(cluster, 0, from, from + cluster.length);
      },
    });
  },
  'full.qcow2': (path, { scale }) => {
    const noise = noiseBytes(random(6), 2 ** 20);
    craftQcow2(path, {
      size: scaled(2 * GiB, scale),
      clusterSize: 65536,
      fill: (cluster, guest) => noise.copy(cluster, 0, (guest * 512) % (noise.length - cluster.length)),
    });
  },
  'snapshots.qcow2': (path, { scale }) => {
    craftQcow2(path, { size: scaled(16 * GiB, scale), clusterSize: 65536, every: 2 });
    const count = Math.max(10, Math.round(1000 * scale));
    for (let index = 0; index < count; index += 1) run('qemu-img', 'snapshot', '-c', `s${index}`, path);
  },
  'shuffled-snapshot.qcow2': (path, { image }) => {
    run('cp', '--sparse=always', image('shuffled.qcow2'), path);
    // With the caches of most runs this alone takes half a minute.
    run('qemu-img', 'snapshot', '-c', 's1', ...cached(path));
  },
  'broken.qcow2': (path, { scale }) => {
    craftQcow2(path, { size: scaled(64 * GiB, scale), clusterSize: 65536, every: 2 });
    damageRefcounts(path);
  },
  'chain-0.qcow2': fromMixed(),
  'chain-1.qcow2': overlay(0),
  'chain-2.qcow2': overlay(1),
  'chain-3.qcow2': overlay(2),
  'chain-4.qcow2': overlay(3),
};

/** An overlay with some of everything of its own. */
function overlay(below) {
  return (path, { scale, image }) => {
    const size = scaled(8 * GiB, scale);
    const next = random(10 + below);
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', image(`chain-${below}.qcow2`), path);
    const writes = Array.from({ length: Math.max(20, Math.round(400 * scale)) }, (_, index) => {
      const length = 4096 * 2 ** Math.floor(next() * 10);
      const at = Math.floor((next() * (size - length)) / 4096) * 4096;
      return ['-c', `write -q -P ${1 + ((index * 7 + below) % 255)} ${at} ${length}`];
    });
    run('qemu-io', '-f', 'qcow2', ...writes.flat(), path);
  };
}

/** Sets some refcounts to 0 and others to 2, in the first refcount block. */
function damageRefcounts(path) {
  const fd = openSync(path, 'r+');
  const table = Buffer.alloc(8);
  readSync(fd, table, 0, 8, 48);
  readSync(fd, table, 0, 8, Number(table.readBigUInt64BE()));
  const block = Number(table.readBigUInt64BE());
  for (let index = 200; index < 1200; index += 10) {
    writeSync(fd, Buffer.of(0, index % 20 === 0 ? 0 : 2), 0, 2, block + index * 2);
  }
  closeSync(fd);
}

/** A folder of images at a size factor; asking for one makes it where it is missing. */
export function imageFolder(folder, scale) {
  const image = (name) => {
    const path = join(folder, name);
    if (existsSync(path)) return path;
    const unfinished = `${path}.unfinished`;
    makers[name](unfinished, { scale, image });
    renameSync(unfinished, path);
    return path;
  };
  return image;
}
