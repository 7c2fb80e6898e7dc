/** readInfo tells of an image what qemu-img info does, whatever it stands on. */
import { truncate } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { readInfo } from '../../lib/index.js';
import { qemuImg } from '../support/oracle.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const MiB = 1024 * 1024;

interface QemuInfo {
  'virtual-size': number;
  'backing-filename': string;
  encrypted: boolean;
  snapshots: { name: string }[];
  'format-specific': { data: { 'refcount-bits': number; encrypt: { uuid: string } } };
}

async function qemuInfo(file: string): Promise<QemuInfo> {
  return JSON.parse((await qemuImg(['info', '--output=json', file])).stdout) as QemuInfo;
}

describe('readInfo', () => {
  it('needs neither the secret nor the backing file', async () => {
    const secret = ['--object', 'secret,id=s,data=passphrase'];
    const luks = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,refcount_bits=32';
    const options = ['-u', '-b', '/nowhere/at/all', '-F', 'qcow2', '-o', luks];
    await qemuImg(['create', '-q', '-f', 'qcow2', ...secret, ...options, path('x.qcow2'), '3M']);
    const expected = await qemuInfo(path('x.qcow2'));
    const { format, virtualSize, info } = await readInfo(path('x.qcow2'));
    expect({ format, virtualSize }).toEqual({ format: 'qcow2', virtualSize: expected['virtual-size'] });
    expect(info?.backing).toEqual({ name: expected['backing-filename'], format: 'qcow2' });
    expect(info?.refcountBits).toBe(expected['format-specific'].data['refcount-bits']);
    expect(info?.encryption).toMatchObject({ uuid: expected['format-specific'].data.encrypt.uuid });
  });

  it('lists snapshots', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', path('x.qcow2'), '3M']);
    await qemuImg(['snapshot', '-c', 'one', path('x.qcow2')]);
    await qemuImg(['snapshot', '-c', 'two', path('x.qcow2')]);
    const { info } = await readInfo(path('x.qcow2'));
    const names = (await qemuInfo(path('x.qcow2'))).snapshots.map(({ name }) => name);
    expect(info?.snapshots.map(({ name }) => name)).toEqual(names);
  });

  it('takes what is not qcow2 for raw', async () => {
    await qemuImg(['create', '-q', '-f', 'raw', path('x.raw'), '5M']);
    expect(await readInfo(path('x.raw'))).toEqual({ format: 'raw', virtualSize: 5 * MiB, info: null });
    await expect(readInfo(path('x.raw'), { format: 'qcow2' })).rejects.toMatchObject({
      code: 'ERR_QCOW2_NOT_QCOW2',
    });
  });

  it('refuses what open refuses: tables that are cut off, a data file that is not there', async () => {
    await qemuImg(['create', '-q', '-f', 'qcow2', path('x.qcow2'), '3M']);
    await truncate(path('x.qcow2'), 3 * 65536);
    await expect(readInfo(path('x.qcow2'))).rejects.toMatchObject({ code: 'ERR_QCOW2_INVALID_HEADER' });

    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', `data_file=${path('d')}`, path('y.qcow2'), '3M']);
    await qemuImg(['amend', '-f', 'qcow2', '-o', 'compat=1.1', path('y.qcow2')]);
    await expect(readInfo(path('y.qcow2'))).rejects.toMatchObject({ code: 'ERR_QCOW2_REFERENCE_DENIED' });
    const told = await readInfo(path('y.qcow2'), { resolve: 'same-directory' });
    expect(told.info?.dataFile).toMatchObject({ name: path('d') });
  });
});
