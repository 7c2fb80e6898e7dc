/** A way to a server that breaks off after a number of bytes. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

export interface CuttingProxy extends AsyncDisposable {
  readonly port: number;
  /** Bytes that have gone either way. */
  readonly passed: number;
}

/**
 * Passes bytes on to a Unix socket and back, over connections that are all cut when `bytes` have gone through, in the middle
 * of a message or not. New connections are cut at once from then on.
 */
export async function cuttingProxy(socketPath: string, bytes: number): Promise<CuttingProxy> {
  let passed = 0;
  const open = new Set<Socket>();
  const cutAll = (): void => open.forEach((socket) => socket.destroy());
  const pass = (from: Socket, to: Socket): void => {
    from.on('data', (chunk: Buffer) => {
      const part = chunk.subarray(0, Math.max(0, bytes - passed));
      passed += part.length;
      if (part.length < chunk.length) to.write(part, cutAll);
      else if (!to.write(part)) {
        from.pause();
        to.once('drain', () => from.resume());
      }
    });
    from.on('end', () => to.end());
    from.on('error', () => to.destroy());
    from.on('close', () => {
      open.delete(from);
      to.destroy();
    });
  };
  const server = createServer((client) => {
    const target = connect(socketPath);
    for (const socket of [client, target]) open.add(socket);
    pass(client, target);
    pass(target, client);
    if (passed >= bytes) cutAll();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    get passed() {
      return passed;
    },
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      cutAll();
      await closed;
    },
  };
}
