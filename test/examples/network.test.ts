/** The examples that use a network do what they say. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { describe, expect, it } from 'vitest';
import { expectCleanByQemu, qemuCompare, qemuContent, qemuImg, qemuIo } from '../support/oracle.js';
import { qemuNbd } from '../support/qemu-nbd.js';
import { startS3 } from '../support/s3-server.js';
import { useTempDir } from '../support/temp-dir.js';

const path = useTempDir();
const example = (name: string): string =>
  fileURLToPath(new URL(`../../examples/${name}.mjs`, import.meta.url));

async function runExample(
  name: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const options = { cwd: path(), env: { ...process.env, ...env } };
  return (await promisify(execFile)(process.execPath, [example(name), ...args], options)).stdout;
}

async function makeDisk(): Promise<string> {
  await qemuImg(['create', '-q', '-f', 'qcow2', path('disk.qcow2'), '64M']);
  await qemuIo(path('disk.qcow2'), ['write -P 1 0 1M', 'write -P 2 30M 2M']);
  return path('disk.qcow2');
}

describe('the example', () => {
  it('instant-restore-nbd', async () => {
    const backup = await makeDisk();
    const before = await readFile(backup);
    const child = spawn(process.execPath, [example('instant-restore-nbd'), backup, path('socket')], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const uri = line.toString().trim();
    await qemuImg(['convert', '-f', 'raw', '-O', 'qcow2', uri, path('restored.qcow2')]);
    expect(await qemuCompare(path('restored.qcow2'), backup)).toMatchObject({ same: true });
    await qemuIo(uri, ['write -P 7 1M 1M', 'flush', 'read -P 7 1M 1M', 'read -P 2 30M 2M'], {
      format: 'raw',
    });
    child.kill('SIGINT');
    expect(await once(child, 'exit')).toEqual([0, null]);
    expect((await readFile(backup)).equals(before)).toBe(true);
  });

  it('backup-running-vm', async () => {
    const disk = await makeDisk();
    await qemuImg(['bitmap', '--add', '-f', 'qcow2', disk, 'since-full']);
    {
      await using server = await qemuNbd(path('socket'), ['-f', 'qcow2', disk]);
      await runExample('backup-running-vm', [server.uri, 'full.qcow2']);
    }
    await qemuIo(disk, ['write -P 3 10M 1M', 'write -z 30M 1M']);
    await using server = await qemuNbd(path('socket2'), ['-r', '-f', 'qcow2', '-B', 'since-full', disk]);
    await runExample('backup-running-vm', [server.uri, 'incremental.qcow2', 'since-full', 'full.qcow2']);
    await expectCleanByQemu(path('incremental.qcow2'));
    expect((await qemuContent(path('incremental.qcow2'))).equals(await qemuContent(server.uri, 'raw'))).toBe(
      true,
    );
    expect((await readFile(path('incremental.qcow2'))).length).toBeLessThan(2 * 2 ** 20);
  });

  it('backup-to-s3', async () => {
    await using server = await startS3(path('s3'));
    const client = new S3Client(server.clientOptions);
    await client.send(new CreateBucketCommand({ Bucket: 'backups' }));
    client.destroy();
    const said = await runExample('backup-to-s3', [await makeDisk(), 'backups', 'monday.qcow2'], {
      AWS_ENDPOINT_URL: server.endpoint,
      AWS_REGION: 'us-east-1',
      AWS_ACCESS_KEY_ID: 'S3RVER',
      AWS_SECRET_ACCESS_KEY: 'S3RVER',
    });
    expect(said).toMatch(/^s3:\/\/backups\/monday\.qcow2: \d+ bytes$/m);
    expect(said).toContain('the first sector of its 67108864 bytes begins with 0101010101010101');
  });
});
