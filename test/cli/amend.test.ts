/** `amend`, held against the real qemu-img on the same images. */
import { describe, vi } from 'vitest';
import { luksOpts } from './fixtures.js';
import { prepareFixtures, sameResult } from './same.js';

prepareFixtures();

sameResult(
  'amend',
  `
  data.qcow2
  -o compat=v2 data.qcow2
  -o compat=v3 v2.qcow2
  -o compat=0.10 small.qcow2
  -o compat=0.10 extended.qcow2
  -o compat=foo data.qcow2
  -o lazy_refcounts=on data.qcow2
  -o lazy_refcounts=on v2.qcow2
  -o lazy_refcounts=foo data.qcow2
  -o refcount_bits=1 data.qcow2
  -o refcount_bits=8 data.qcow2
  -o refcount_bits=64 data.qcow2
  -o refcount_bits=3 data.qcow2
  -o refcount_bits=1 v2.qcow2
  -o refcount_bits=1,compat=v3 v2.qcow2
  -o cluster_size=4k data.qcow2
  -o cluster_size=64k data.qcow2
  -o size=2G data.qcow2
  -o size=10M data.qcow2
  -o size=1G data.qcow2
  -o backing_file=empty.qcow2 data.qcow2
  -o backing_file=empty.qcow2,backing_fmt=qcow2 data.qcow2
  -o backing_fmt=raw overlay.qcow2
  -o backing_fmt=qcow2,backing_file=data.qcow2 overlay.qcow2
  -o backing_file= overlay.qcow2
  -o data_file=x data.qcow2
  -o data_file=x external.qcow2
  -o data_file_raw=off rawexternal.qcow2
  -o data_file_raw=on rawexternal.qcow2
  -o data_file_raw=on external.qcow2
  -o data_file_raw=off data.qcow2
  -o data_file_raw=on data.qcow2
  -o compression_type=zstd data.qcow2
  -o extended_l2=on data.qcow2
  -o preallocation=full data.qcow2
  -o foo=1 data.qcow2
  -o help data.qcow2
  -o help -f qcow2
  -o help -f raw
  -o help
  -o help -f foo
  -o help sparse.raw
  -o help missing
  -o , data.qcow2
  -o compat=v3 sparse.raw
  -o size=3M sparse.raw
  -o compat=v3 missing
  -q -o compat=v2 data.qcow2
  -p -o compat=v2 data.qcow2
  -p -o lazy_refcounts=on data.qcow2
  -p -q -o compat=v2 data.qcow2
  -t foo -o compat=v2 data.qcow2
  -t none -o compat=v2 data.qcow2
  -f raw -o compat=v2 data.qcow2
  -f foo -o compat=v2 data.qcow2
  -o compat=v2 a b
  -o compat=v2
  --force -o compat=v2 data.qcow2
  -o compat=v2,lazy_refcounts=on data.qcow2
  -o compat=v2,refcount_bits=8 data.qcow2
  -o compat=v2 corrupt.qcow2
  -o compat=v2 dirty.qcow2
  -o encryption=on data.qcow2
  -o encrypt.format=luks data.qcow2
  -o encrypt.state=active data.qcow2
  -o encrypt.state=active luks.qcow2
  -p -o compat=v2 missing
  -p -o foo=1 data.qcow2
  -o help,foo data.qcow2
  -o compat=v2 overlay.qcow2
  -o compat=v3 overlay.qcow2
  -o compat=v2 orphan.qcow2
  -o size=1000 data.qcow2
  -o size=foo data.qcow2
  -o size=2G states.qcow2
  -o size=512k states.qcow2
  -o refcount_bits=7,encrypt.state=active data.qcow2
  -o compat=x,encrypt.state=active data.qcow2
  -o compat=x,data_file=x data.qcow2
  -o refcount_bits=7,backing_fmt=raw data.qcow2
  -o refcount_bits=7,data_file_raw=on data.qcow2
  -o backing_fmt=raw,refcount_bits=8 v2.qcow2
  -o backing_fmt=raw,lazy_refcounts=on v2.qcow2
  -o size=1000,lazy_refcounts=on v2.qcow2
  -o size=1000,backing_fmt=raw data.qcow2
  -o compat=v2,backing_fmt=raw small.qcow2
  -o compat=v2,size=1000 small.qcow2
`,
);

vi.setConfig({ testTimeout: 120_000 });

const secrets = '--object secret,id=s,data=geheim --object secret,id=t,data=neu';

/** Changes of keys, without the `encrypt.` before each name. */
const keyChanges = [
  'state=active', 'new-secret=t,iter-time=10',
  'state=active,new-secret=t,iter-time=10,keyslot=3', 'state=active,new-secret=t,keyslot=0',
  'state=active,new-secret=t,keyslot=9', 'state=inactive,old-secret=s', 'state=inactive,keyslot=0',
  'state=inactive,keyslot=2', 'state=inactive', 'state=foo', 'format=luks,state=active,new-secret=nope',
  'state=active,new-secret=nope', 'state=active,old-secret=t,new-secret=t', 'state=inactive,old-secret=t',
  'state=inactive,new-secret=t', 'cipher-alg=aes-128', 'state=inactive,keyslot=0,iter-time=3',
  'state=inactive,old-secret=s,keyslot=0',
]; // prettier-ignore

describe('keys', () => {
  const lines = keyChanges.flatMap((change) => {
    const options = change.replaceAll(/(^|,)/g, '$1encrypt.');
    return ['', '--force '].map((force) => `${secrets} ${force}-o ${options} --image-opts ${luksOpts}`);
  });
  // Unlike qemu-img we never overwrite a key that works. Making a key takes qemu-img long on a busy machine: once is enough.
  sameResult(
    'amend',
    lines
      .filter(
        (line) => !/--force.*new-secret=t,encrypt.(keyslot=0|iter-time=10,encrypt.keyslot=3)/.test(line),
      )
      .join('\n'),
  );
});
