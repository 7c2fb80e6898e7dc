/** What `--image-opts` and `json:` say beyond a file's name: the part of a file, and what an image is to stand on. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { prepareFixtures, sameOutput, sameResult } from './same.js';

const over = 'driver=qcow2,file.filename=overlay.qcow2';
const raw = 'driver=raw,file.filename=sparse.raw';
/** An image that other bytes are around, as in an archive. */
const inside = 'driver=qcow2,file.driver=raw,file.offset=1M,file.size=4M,file.file.filename=archive';
const onRaw = `${over},backing.driver=raw,backing.file.filename=sparse.raw`;
const twice = `${over},backing.driver=qcow2,backing.file.filename=onraw.qcow2,backing.backing.driver=raw,backing.backing.file.filename=text.raw`;
const overJson = (backing: string): string =>
  `'json:{"driver":"qcow2","file":{"driver":"file","filename":"overlay.qcow2"},"backing":${backing}}'`;

prepareFixtures((directory) => {
  const at = (name: string): string => join(directory, name);
  const around = Buffer.alloc(2 ** 20, 'a');
  const image = readFileSync(at('small.qcow2'));
  const rest = Buffer.alloc(5 * 2 ** 20 - image.length);
  writeFileSync(at('archive'), Buffer.concat([around, image, rest, around]));
  copyFileSync(at('sparse.raw'), at('other.raw'));
});

sameOutput(
  'info',
  `
  --image-opts ${raw},size=64k
  --image-opts ${raw},offset=64k,size=64k
  --output=json --image-opts ${raw},offset=64k
  --image-opts ${raw},offset=1000
  --image-opts file.filename=sparse.raw,size=0
  --image-opts ${raw},size=1.5k,offset=512
  --image-opts ${raw},size=100
  --image-opts ${raw},size=-1
  --image-opts ${raw},offset=
  --image-opts ${raw},offset=2M
  --image-opts ${raw},offset=512k,size=1M
  --image-opts ${raw},size=2M
  --image-opts ${raw},offset=1M
  --image-opts file.filename=small.qcow2,offset=512
  --image-opts driver=qcow2,file.filename=small.qcow2,size=1M
  --image-opts ${inside}
  --output=json --image-opts ${inside}
  'json:{"driver":"raw","offset":512,"size":"64k","file":{"driver":"file","filename":"sparse.raw"}}'
  'json:{"driver":"qcow2","file":{"driver":"raw","offset":1048576,"file":{"driver":"file","filename":"archive"}}}'
  --image-opts ${onRaw}
  --backing-chain --image-opts ${onRaw}
  --backing-chain ${overJson('null')}
  --image-opts ${over},backing=x
  --image-opts ${over},backing=x,backing.driver=raw
  --image-opts ${over},backing.foo=1
  --image-opts ${over},backing.foo=1,backing.driver=raw
  --image-opts ${over},backing.backing=x
  --image-opts ${raw},backing=x
  --image-opts ${raw},backing.driver=raw
  --image-opts driver=qcow2,file.driver=file
`,
);

sameOutput(
  'map',
  `
  --output=json --image-opts ${raw},offset=64k
  --image-opts ${raw},offset=64k,size=64k
  --output=json --image-opts ${inside}
  --image-opts ${inside}
  --image-opts ${onRaw}
  --output=json --image-opts ${onRaw}
  --output=json --image-opts ${onRaw},backing.offset=64k,backing.size=512k
  --output=json --image-opts ${over},backing.driver=raw
  --output=json --image-opts ${over},backing.driver=qcow2
  --output=json --image-opts ${over},backing.file.filename=states.qcow2
  --output=json --image-opts ${over},backing.file.filename=sparse.raw
  --output=json --image-opts ${over},backing.driver=raw,backing.file.filename=missing
  --output=json --image-opts ${over},backing.driver=raw,backing.file.filename=sub
  --output=json --image-opts ${over},backing.driver=raw,backing.file.filename=
  --output=json --image-opts ${over},backing.driver=raw,backing.file=x
  --output=json --image-opts ${over},backing.foo=1
  --output=json --image-opts ${over},backing=x
  --output=json --image-opts ${over},backing=x,backing.driver=raw
  --output=json --image-opts ${onRaw},backing.offset=2M
  --output=json --image-opts ${onRaw},backing.size=2M
  --output=json --image-opts ${twice}
  --image-opts ${twice}
  --image-opts driver=qcow2,file.filename=states.qcow2,backing.driver=raw,backing.file.filename=sparse.raw
  --image-opts driver=qcow2,file.filename=states.qcow2,backing.driver=file,backing.filename=sparse.raw
  --image-opts driver=qcow2,file.filename=states.qcow2,backing.file.filename=sparse.raw,backing.size=64k
  --image-opts ${raw},backing.driver=raw,backing.file.filename=data.qcow2
  --image-opts ${raw},backing=x
  --output=json ${overJson('null')}
  --output=json ${overJson('{"driver":"raw","file":{"driver":"file","filename":"sparse.raw"}}')}
  --output=json ${overJson('{"driver":"raw","offset":512,"file":{"driver":"file","filename":"sparse.raw"}}')}
  --output=json 'json:{"driver":"qcow2","file.filename":"orphan.qcow2","backing":null}'
`,
);

sameOutput('check', `--image-opts ${inside}\n--image-opts ${onRaw}`);
sameOutput('measure', `-O qcow2 --image-opts ${onRaw}\n-O qcow2 --image-opts ${raw},offset=64k,size=64k`);
sameOutput(
  'compare',
  `
  --image-opts ${onRaw} driver=qcow2,file.filename=data.qcow2
  --image-opts ${inside} driver=qcow2,file.filename=small.qcow2
  --image-opts ${raw},offset=64k,size=64k ${raw},size=64k
  --image-opts ${raw},offset=64k ${raw},offset=64k,size=512k
`,
);

sameResult(
  'convert',
  `
  -O qcow2 --image-opts ${onRaw} new
  -O qcow2 --image-opts ${twice} new
  -O raw --image-opts ${raw},offset=512 new
  -O qcow2 --image-opts ${inside} new
  -O qcow2 -B sparse.raw -F raw --image-opts ${onRaw} new
  -n --target-image-opts sub/top.qcow2 ${onRaw}
  -n --target-image-opts sparse.raw ${raw},size=64k
  -n --target-image-opts odd.qcow2 driver=raw,file.filename=other.raw,offset=512k,size=64k
  -n --target-image-opts odd.qcow2 driver=raw,file.filename=other.raw,offset=512k
`,
);
sameResult(
  'commit',
  `
  --image-opts ${onRaw}
  -b sparse.raw --image-opts ${onRaw}
  -b data.qcow2 --image-opts ${onRaw}
  -b text.raw --image-opts ${twice}
  --image-opts driver=qcow2,file.filename=states.qcow2,backing.driver=raw,backing.file.filename=other.raw
`,
);
sameResult(
  'rebase',
  `
  --image-opts -b '' ${onRaw}
  --image-opts -u -b '' ${onRaw}
  --image-opts -u -b '' ${over},backing=x
`,
);
sameResult(
  'resize',
  `
  --image-opts ${raw},size=64k 128k
  --image-opts ${raw},offset=64k 2M
  --image-opts ${raw},offset=64k +64k
  --image-opts ${raw},offset=64k 64k
  --image-opts --shrink ${raw},offset=64k 64k
  --image-opts --shrink ${raw},offset=64k,size=64k 512
  --image-opts ${onRaw} 2G
`,
);
sameResult('snapshot', `-c x --image-opts ${onRaw}`);
sameResult('bitmap', `--add --image-opts ${onRaw} x\n--add --image-opts ${over},backing=x x`);
sameResult('amend', `-o lazy_refcounts=on --image-opts ${onRaw}`);
sameResult(
  'dd',
  `--image-opts if=${onRaw} of=new bs=1M count=1\n--image-opts if=${raw},offset=64k of=new bs=4k skip=1`,
);
