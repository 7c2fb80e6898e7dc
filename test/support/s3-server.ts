/** A server that speaks S3 (s3rver), for as long as a test wants. */
import type { S3ClientConfig } from '@aws-sdk/client-s3';
import { mkdirSync } from 'node:fs';
import S3rver from 's3rver';

export interface S3Server extends AsyncDisposable {
  endpoint: string;
  clientOptions: S3ClientConfig;
}

/** Starts it on 127.0.0.1 with its objects in a directory. */
export async function startS3(directory: string): Promise<S3Server> {
  mkdirSync(directory, { recursive: true });
  const server = new S3rver({ address: '127.0.0.1', port: 0, silent: true, directory });
  const { port } = await server.run();
  const endpoint = `http://127.0.0.1:${port}`;
  let isOpen = true;
  return {
    endpoint,
    clientOptions: {
      endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      maxAttempts: 1,
      credentials: { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' },
    },
    [Symbol.asyncDispose]: async () => {
      if (isOpen) await server.close();
      isOpen = false;
    },
  };
}
