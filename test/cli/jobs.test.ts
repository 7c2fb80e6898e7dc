/** The commands around a disk's life, held against the real qemu-img on the same images. */
import { join } from 'node:path';
import { prepareFixtures, sameResult } from './same.js';
import { tool } from './run.js';

prepareFixtures((directory) => {
  tool(
    'qemu-img',
    ['create', '-q', '-f', 'qcow2', '-b', 'overlay.qcow2', '-F', 'qcow2', 'three.qcow2'],
    directory,
  );
  tool(
    'qemu-io',
    ['-c', 'write -P 7 50M 64k', '-c', 'write -z 10M 64k', join(directory, 'three.qcow2')],
    directory,
  );
});

sameResult(
  'snapshot',
  `
  states.qcow2
  -l states.qcow2
  -l empty.qcow2
  -l sparse.raw
  -c x sparse.raw
  -d x sparse.raw
  -c x empty.qcow2
  -c first states.qcow2
  -c x -c y states.qcow2
  -l -c y states.qcow2
  -a first states.qcow2
  -a nope states.qcow2
  -a nope data.qcow2
  -d nope states.qcow2
  -d first states.qcow2
  -d 2 states.qcow2
  -d first missing
  -c
  -c x
  -l a b
  -q -c x empty.qcow2
  -U -c x empty.qcow2
  -U -c x --image-opts driver=qcow2,file.filename=empty.qcow2,read-only=on
  -U states.qcow2
  -U -l empty.qcow2
  -c '' empty.qcow2
  --image-opts driver=qcow2,file.filename=states.qcow2
  -c x external.qcow2
  -c x corrupt.qcow2
  -l corrupt.qcow2
  -c x luks.qcow2
  -l luks.qcow2
  --object secret,id=s,data=geheim --image-opts -c x driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=s
  -l orphan.qcow2
  -c x orphan.qcow2
  -c x overlay.qcow2
  -l --nonsense empty.qcow2
  -c x zero.qcow2
  -c x extended.qcow2
  -c x dirty.qcow2
  -c x v2.qcow2
  -l sub
  -l ''
`,
);

sameResult(
  'bitmap',
  `
  --add
  --add empty.qcow2
  --add empty.qcow2 b0
  --add empty.qcow2 b0 c
  empty.qcow2 b0
  --add --disable empty.qcow2 b0
  --add -g 1M empty.qcow2 b0
  --add -g 1000 empty.qcow2 b0
  --add -g 0 empty.qcow2 b0
  --add -g 4G empty.qcow2 b0
  --add -g 2G empty.qcow2 b0
  --add -g foo empty.qcow2 b0
  -g 1M --clear states.qcow2 tracking
  --clear states.qcow2 tracking
  --enable states.qcow2 still
  --disable states.qcow2 still
  --enable states.qcow2 tracking
  --remove states.qcow2 still
  --remove states.qcow2 nope
  --clear states.qcow2 nope
  --enable states.qcow2 nope
  --disable states.qcow2 nope
  --add states.qcow2 still
  --merge still states.qcow2 tracking
  --merge nope states.qcow2 tracking
  --merge still states.qcow2 nope
  --add --merge still --disable states.qcow2 sum
  --add --merge still --merge tracking --disable states.qcow2 sum
  --remove --add states.qcow2 sum
  --add --remove states.qcow2 sum
  --add --add states.qcow2 sum
  --add --merge still -b states.qcow2 empty.qcow2 sum
  --add --merge still -b states.qcow2 -F qcow2 empty.qcow2 sum
  --add --merge nope -b states.qcow2 -F qcow2 empty.qcow2 sum
  --add -b states.qcow2 empty.qcow2 sum
  --add -F qcow2 empty.qcow2 sum
  --merge still -F qcow2 empty.qcow2 sum
  --merge still -b missing empty.qcow2 sum
  --merge still -b data.qcow2 states.qcow2 tracking
  --add missing b0
  --add '' b0
  --add empty.qcow2 ''
  --add corrupt.qcow2 b0
  --add orphan.qcow2 b0
  --add external.qcow2 b0
  --add luks.qcow2 b0
  --add -f foo empty.qcow2 b0
  --add --image-opts -f qcow2 empty.qcow2 b0
  --add --image-opts driver=qcow2,file.filename=empty.qcow2 b0
  --add -U empty.qcow2 b0
  --add -q empty.qcow2 b0
  --clear -g 1M empty.qcow2 b0
  --merge
  --granularity 1M --add empty.qcow2 b0
  --source-file states.qcow2 --source-format qcow2 --add --merge still empty.qcow2 b0
  --add odd.qcow2 b
`,
);

sameResult(
  'commit',
  `
  a b
  overlay.qcow2
  -q overlay.qcow2
  -d overlay.qcow2
  -p -q overlay.qcow2
  empty.qcow2
  sparse.raw
  missing
  orphan.qcow2
  -b data.qcow2 overlay.qcow2
  -b data.qcow2 -d overlay.qcow2
  -b ./data.qcow2 overlay.qcow2
  -b nope overlay.qcow2
  -b overlay.qcow2 overlay.qcow2
  -t foo overlay.qcow2
  -t none overlay.qcow2
  -r 100M overlay.qcow2
  -r foo overlay.qcow2
  -r 0 overlay.qcow2
  -f raw overlay.qcow2
  -f qcow2 overlay.qcow2
  -f foo overlay.qcow2
  --image-opts driver=qcow2,file.filename=overlay.qcow2
  --image-opts overlay.qcow2
  onraw.qcow2
  sub/top.qcow2
  -b base.qcow2 sub/top.qcow2
  -b sub/base.qcow2 sub/top.qcow2
  -b data.qcow2 sub/top.qcow2
  corrupt.qcow2
  -U overlay.qcow2
  luks.qcow2
  -z overlay.qcow2
  -b
  -p empty.qcow2
  -p missing
  -b '' overlay.qcow2
  -t foo -r foo
  --image-opts -f raw x
  three.qcow2
  -b data.qcow2 three.qcow2
  -b overlay.qcow2 three.qcow2
  -b data.qcow2 -q -d three.qcow2
`,
);

sameResult(
  'rebase',
  `
  overlay.qcow2
  -b data.qcow2
  -b data.qcow2 a b
  -b data.qcow2 -F qcow2 overlay.qcow2
  -b empty.qcow2 -F qcow2 overlay.qcow2
  -b empty.qcow2 -F qcow2 -p overlay.qcow2
  -b empty.qcow2 -F qcow2 -p -q overlay.qcow2
  -b empty.qcow2 -F qcow2 -q overlay.qcow2
  -b '' overlay.qcow2
  -b '' -F qcow2 overlay.qcow2
  -u -b '' overlay.qcow2
  -u -b nope -F qcow2 overlay.qcow2
  -u -b nope overlay.qcow2
  -u -b empty.qcow2 overlay.qcow2
  -u -p -b nope -F qcow2 overlay.qcow2
  -u -b nope -F foo overlay.qcow2
  -b nope -F qcow2 overlay.qcow2
  -b nope overlay.qcow2
  -b sparse.raw -F qcow2 overlay.qcow2
  -b sparse.raw -F raw overlay.qcow2
  -b sparse.raw -F foo overlay.qcow2
  -b overlay.qcow2 -F qcow2 overlay.qcow2
  -b empty.qcow2 -F qcow2 orphan.qcow2
  -u -b empty.qcow2 -F qcow2 orphan.qcow2
  -b empty.qcow2 -F qcow2 sparse.raw
  -b empty.qcow2 -F qcow2 missing
  -b empty.qcow2 -F qcow2 corrupt.qcow2
  -b empty.qcow2 -F qcow2 rawexternal.qcow2
  -b empty.qcow2 -F qcow2 data.qcow2
  -b sub/base.qcow2 -F qcow2 data.qcow2
  -t foo -b empty.qcow2 -F qcow2 data.qcow2
  -T foo -b empty.qcow2 -F qcow2 data.qcow2
  -t none -T none -b empty.qcow2 -F qcow2 data.qcow2
  -f foo -b empty.qcow2 -F qcow2 data.qcow2
  -f raw -b empty.qcow2 -F qcow2 data.qcow2
  -f raw -b empty.qcow2 data.qcow2
  -f raw -u -b empty.qcow2 data.qcow2
  -f raw -b '' data.qcow2
  -U -b empty.qcow2 -F qcow2 data.qcow2
  -U -u -b empty.qcow2 -F qcow2 data.qcow2
  --image-opts -b empty.qcow2 -F qcow2 driver=qcow2,file.filename=data.qcow2
  -b empty.qcow2 -F qcow2 luks.qcow2
  -b empty.qcow2 -F qcow2 sub/top.qcow2
  -b ../data.qcow2 -F qcow2 sub/top.qcow2
  -p -b '' missing
  -u overlay.qcow2
  -u -F qcow2 overlay.qcow2
  -u -b '' -F foo overlay.qcow2
  -b '' -F foo missing
  -t foo -F foo missing
  -T bar -t foo -F foo -b x missing
  -b data.qcow2 -F qcow2 three.qcow2
  -b overlay.qcow2 -F qcow2 three.qcow2
  -b '' three.qcow2
  -b sparse.raw -F raw onraw.qcow2
  -b '' onraw.qcow2
  -b extended.qcow2 -F qcow2 overlay.qcow2
  -b small.qcow2 -F qcow2 extended.qcow2
  -b data.qcow2 -F qcow2 small.qcow2
  -b data.qcow2 -F qcow2 external.qcow2
  -b foo:bar -F qcow2 data.qcow2
  -b sub -F qcow2 data.qcow2
  -b orphan.qcow2 -F qcow2 data.qcow2
`,
);

sameResult(
  'dd',
  `
  if=sparse.raw
  of=new
  if=sparse.raw of=new
  if=sparse.raw of=new bs=1M
  if=sparse.raw of=new bs=1M count=1
  if=sparse.raw of=new bs=4k count=10 skip=5
  if=sparse.raw of=new bs=4k count=100 skip=250
  if=sparse.raw of=new bs=4k skip=300
  if=sparse.raw of=new bs=4k skip=256
  if=sparse.raw of=new bs=foo
  if=sparse.raw of=new bs=0
  if=sparse.raw of=new bs=-1
  if=sparse.raw of=new count=foo
  if=sparse.raw of=new count=0
  if=sparse.raw of=new skip=foo
  if=sparse.raw of=new foo=1
  if=sparse.raw of=new foo
  if=sparse.raw of=new -z
  -O qcow2 if=sparse.raw of=new bs=64k
  -O foo if=sparse.raw of=new
  -f foo if=sparse.raw of=new
  -f raw if=empty.qcow2 of=new bs=1M
  -f qcow2 if=data.qcow2 of=new bs=1M
  if=data.qcow2 of=data2.qcow2 bs=1M -O qcow2 count=3
  if=missing of=new
  if=sparse.raw of=nodir/new
  if=sparse.raw of=sub
  if=sparse.raw of=text.raw
  if=overlay.qcow2 of=new bs=3G count=1
  if=text.raw of=new
  if=text.raw of=new bs=4
  if=text.raw of=new bs=4 count=1
  if=text.raw of=new bs=4 count=1 skip=1
  if=odd.qcow2 of=new bs=100
  if=odd.qcow2 of=new bs=100 skip=3
  if=odd.qcow2 of=new bs=100 skip=3 count=2
  if=small.qcow2 of=new bs=1000 skip=3 count=200
  if=small.qcow2 of=new bs=1000 skip=3 count=200 -O qcow2
  if=zero.qcow2 of=new
  --image-opts if=driver=qcow2,file.filename=data.qcow2 of=new bs=1M
  -U if=sparse.raw of=new
  -n if=sparse.raw of=text.raw
  iflag=direct if=sparse.raw of=new
  if=sparse.raw if=text.raw of=new
  if= of=new
  if=sparse.raw of=
  if=sparse.raw of=foo:new
  if=luks.qcow2 of=new
  if=sparse.raw of=new skip=1 count=1
  if=sparse.raw of=new bs=1G
  if=sparse.raw of=new bs=2G
  bs=1M
  bs=foo
  bs=foo zz
  -O foo bs=0
  -O foo -f bar if=x of=y
  --image-opts -f raw if=sparse.raw of=new
  if=compressed.qcow2 of=new bs=64k skip=2 count=20 -O qcow2
  if=extended.qcow2 of=new bs=64k
`,
);

sameResult(
  'bench',
  `
  a b
  -c 10 data.qcow2
  -c 10 -w data.qcow2
  -c foo data.qcow2
  -c 0 data.qcow2
  -c 10 -d foo data.qcow2
  -c 10 -d 4 -s 8k -S 64k -o 1M data.qcow2
  -c 10 -s foo data.qcow2
  -c 10 -S foo data.qcow2
  -c 10 -o foo data.qcow2
  -c 10 -o 10E data.qcow2
  -c 10 -o 2G data.qcow2
  -c 10 -w --flush-interval=5 data.qcow2
  -c 10 --flush-interval=5 data.qcow2
  -c 10 -d 2 -w --flush-interval=5 data.qcow2
  -c 10 -d 2 -w --flush-interval=5 --no-drain data.qcow2
  -c 10 -w --flush-interval=foo data.qcow2
  -c 10 --no-drain data.qcow2
  -c 10 -w --pattern=65 data.qcow2
  -c 10 --pattern=65 data.qcow2
  -c 10 -w --pattern=foo data.qcow2
  -c 10 -w --pattern=256 data.qcow2
  -c 10 -q data.qcow2
  -c 10 -i threads data.qcow2
  -c 10 -i native -t none data.qcow2
  -c 10 -i io_uring data.qcow2
  -c 10 -i foo data.qcow2
  -c 10 -t foo data.qcow2
  -c 10 -t none data.qcow2
  -c 10 -f raw data.qcow2
  -c 10 -f foo data.qcow2
  -c 10 -w sparse.raw
  -c 10 missing
  -c 1 odd.qcow2
  -c 10 -U data.qcow2
  -c 10 -U -w data.qcow2
  -c 10 --image-opts driver=qcow2,file.filename=data.qcow2
  -c 10 -z data.qcow2
  -c 1 -s 3G data.qcow2
  -c 10 -S 0 data.qcow2
  -c 100 -d 8 -s 64k -w --pattern 3 -f qcow2 small.qcow2
  -c 100 -d 8 -s 64k -w --pattern 3 extended.qcow2
`,
);
