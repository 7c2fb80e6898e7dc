/** `compare`, `measure` and `map`, held against the real qemu-img on the same images. */
import { prepareFixtures, sameOutput } from './same.js';

prepareFixtures();

const kinds =
  'v2 zero odd data small extended compressed overlay sub/base sub/top onraw external rawexternal states dirty preallocated reserved'
    .split(' ')
    .map((name) => `${name}.qcow2`);

const pairs = kinds.flatMap((kind) => [
  `-s ${kind} ${kind}`,
  ...['data.qcow2', 'overlay.qcow2', 'onraw.qcow2'].flatMap((other) => [
    `${kind} ${other}`,
    `-s ${kind} ${other}`,
    `-s ${other} ${kind}`,
  ]),
]);
const newImages = [
  'cluster_size=512',
  'cluster_size=2M',
  'extended_l2=on',
  'refcount_bits=1',
  'preallocation=full',
];

sameOutput(
  'compare',
  `
  a
  a b c
  data.qcow2 compressed.qcow2
  data.qcow2 empty.qcow2
  empty.qcow2 data.qcow2
  -s data.qcow2 empty.qcow2
  -s empty.qcow2 data.qcow2
  -q data.qcow2 overlay.qcow2
  -p -q data.qcow2 data.qcow2
  small.qcow2 extended.qcow2
  empty.qcow2 v2.qcow2
  -s empty.qcow2 v2.qcow2
  v2.qcow2 empty.qcow2
  data.qcow2 v2.qcow2
  zero.qcow2 empty.qcow2
  zero.qcow2 zero.qcow2
  missing data.qcow2
  data.qcow2 missing
  missing missing2
  -f raw data.qcow2 data.qcow2
  -F raw data.qcow2 data.qcow2
  -f foo data.qcow2 data.qcow2
  -F foo data.qcow2 data.qcow2
  -f qcow2 -F raw onraw.qcow2 sparse.raw
  onraw.qcow2 sparse.raw
  sparse.raw onraw.qcow2
  -s onraw.qcow2 sparse.raw
  text.raw sparse.raw
  text.raw zero.qcow2
  -T foo data.qcow2 data.qcow2
  -T none data.qcow2 data.qcow2
  -U data.qcow2 data.qcow2
  --image-opts driver=qcow2,file.filename=data.qcow2 driver=qcow2,file.filename=overlay.qcow2
  --image-opts -f raw data.qcow2 data.qcow2
  luks.qcow2 data.qcow2
  orphan.qcow2 data.qcow2
  -a a b
  corrupt.qcow2 empty.qcow2
  states.qcow2 empty.qcow2
  empty.qcow2 states.qcow2
  external.qcow2 sparse.raw
  odd.qcow2 zero.qcow2
  empty.qcow2 overlay.qcow2
  -s empty.qcow2 overlay.qcow2
  -s overlay.qcow2 empty.qcow2
  empty.qcow2 onraw.qcow2
  -s empty.qcow2 onraw.qcow2
  -s onraw.qcow2 empty.qcow2
  -s empty.qcow2 empty.qcow2
  ${pairs.join('\n')}
`,
);

sameOutput(
  'measure',
  `
  data.qcow2
  a b
  -O qcow2 data.qcow2
  -O qcow2 --output=json data.qcow2
  --output=foo data.qcow2
  --output json --size 1G
  --size 1G -O qcow2
  --size 1G -O qcow2 -o cluster_size=4k
  --size 1G -O qcow2 data.qcow2
  --size foo
  --size 0 -O qcow2
  --size 1000 -O qcow2
  --size 1000
  --size 10E -O qcow2
  --size 7E -O qcow2
  --size 1P -O qcow2 -o cluster_size=512
  --size 1G -O qcow2 -o preallocation=full
  --size 1G -O qcow2 -o preallocation=metadata
  -O qcow2 -o preallocation=metadata data.qcow2
  -O qcow2 -o preallocation=falloc data.qcow2
  -O qcow2 -o preallocation=foo data.qcow2
  -O qcow2 -o foo=1 data.qcow2
  -O qcow2 -o cluster_size=3 data.qcow2
  -O qcow2 -o help
  -O foo data.qcow2
  -O qcow2 states.qcow2
  -O qcow2 --output=json states.qcow2
  -O qcow2 -o compat=0.10 states.qcow2
  -O qcow2 -l first states.qcow2
  -O qcow2 -l 1 states.qcow2
  -O qcow2 -l snapshot.id=1 states.qcow2
  -O qcow2 -l snapshot.name=first states.qcow2
  -O qcow2 -l snapshot.id=1,snapshot.name=first states.qcow2
  -O qcow2 -l snapshot.id=2,snapshot.name=first states.qcow2
  -O qcow2 -l nope states.qcow2
  -O qcow2 -l snapshot.foo=1 states.qcow2
  -l 1 --size 1G
  -f qcow2 --size 1G
  -O qcow2 overlay.qcow2
  -O qcow2 -o backing_file=data.qcow2,backing_fmt=qcow2 overlay.qcow2
  -O qcow2 -o backing_file=data.qcow2 overlay.qcow2
  -O qcow2 -o encrypt.format=luks data.qcow2
  -O qcow2 -o data_file=x data.qcow2
  -O qcow2 -o extended_l2=on data.qcow2
  -O qcow2 -o extended_l2=on,cluster_size=4k data.qcow2
  -O qcow2 -o refcount_bits=64,lazy_refcounts=on,compression_type=zstd data.qcow2
  -O qcow2 sparse.raw
  -O qcow2 -f raw data.qcow2
  -O qcow2 text.raw
  -O raw data.qcow2
  -O raw odd.qcow2
  -O raw -o size=1G --size 2G
  -O qcow2 -o size=1G --size 2G
  -O qcow2 -o size=1G data.qcow2
  -O qcow2 missing
  -U -O qcow2 data.qcow2
  --image-opts -O qcow2 driver=qcow2,file.filename=data.qcow2
  --image-opts -O qcow2 data.qcow2
  -O qcow2 luks.qcow2
  -O qcow2 --size 1G -o compat=foo
  -O qcow2 -o , --size 1G
  -O qcow2 -l first sparse.raw
  -O qcow2 -l first external.qcow2
  ${newImages.flatMap((option) => kinds.map((kind) => `-O qcow2 -o ${option} ${kind}`)).join('\n')}
`,
);

sameOutput(
  'map',
  ['', '--output=json', '--output=json -s 70k -l 1M', '-s 1000 -l 3M']
    .flatMap((options) => kinds.map((kind) => `${options} ${kind}`))
    .join('\n'),
);
