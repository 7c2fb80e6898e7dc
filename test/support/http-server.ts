/** A web server with one file, as well behaved or as broken as a test wants it. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';

export interface FileServer extends AsyncDisposable {
  url: URL;
  /** What was asked for: the ranges, in order. */
  ranges: string[];
  requests: IncomingMessage[];
  /** The most requests that were under way at once. */
  mostAtOnce: number;
  etag: string;
  content: Buffer;
  /** Answers instead of the file, once for each that is in the list; returning false gives the file after all. */
  surprises: ((request: IncomingMessage, response: ServerResponse) => boolean)[];
}

export async function serveFile(content: Buffer, tls?: ServerOptions): Promise<FileServer> {
  let underWay = 0;
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    underWay += 1;
    served.mostAtOnce = Math.max(served.mostAtOnce, underWay);
    response.once('close', () => (underWay -= 1));
    served.requests.push(request);
    served.ranges.push(request.headers.range ?? 'all');
    if (served.surprises.shift()?.(request, response) === true) return;
    sendRange(served, request, response);
  };
  const server: Server = tls === undefined ? createServer(answer) : createHttpsServer(tls, answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const served: FileServer = {
    url: new URL(tls === undefined ? `http://127.0.0.1:${port}/a/file` : `https://localhost:${port}/a/file`),
    ranges: [],
    requests: [],
    mostAtOnce: 0,
    etag: '"one"',
    content,
    surprises: [],
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return served;
}

/** What a well behaved server does (RFC 9110, sections 13 and 14). */
export function sendRange(
  { content, etag }: Pick<FileServer, 'content' | 'etag'>,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const wanted = request.headers['if-match'];
  if (wanted !== undefined && wanted !== etag) {
    response.writeHead(412).end();
    return;
  }
  const [, first = '', last = ''] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  if (first === '' || Number(first) >= content.length) {
    response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end();
    return;
  }
  const end = Math.min(Number(last) + 1, content.length);
  const part = content.subarray(Number(first), end);
  const range = `bytes ${first}-${end - 1}/${content.length}`;
  response.writeHead(206, { 'content-range': range, 'content-length': part.length, etag }).end(part);
}
