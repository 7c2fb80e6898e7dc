/** One range request over HTTP: redirects followed with care, and every part of the answer checked. */
import { request as requestHttp, type Agent as HttpAgent, type IncomingMessage } from 'node:http';
import { request as requestHttps, type Agent as HttpsAgent } from 'node:https';
import { Qcow2Error } from '../errors.js';
import { quote } from '../format/text.js';
import { PassingFailure } from './retry.js';
import { tlsFailure } from './tls-failure.js';

/** What is known of a file. */
export interface Answer {
  /** Bytes. */
  readonly total: number;
  readonly etag: string | null;
  readonly lastModified: string | null;
  /** Where the answer came from in the end. */
  readonly place: URL;
}

export interface RangeRequest {
  /** The file's name for messages. */
  readonly name: string;
  readonly start: number;
  readonly length: number;
  /** Where the bytes go; null to look at them only. */
  readonly buffer: Buffer | null;
  /** The file as it was at first; null for the first request. */
  readonly seen: Answer | null;
}

export interface Connections {
  readonly http: HttpAgent;
  readonly https: HttpsAgent;
}

/** How to get to the file. */
export interface Way {
  /** The caller's URL: only its origin is sent the caller's headers. */
  readonly origin: URL;
  readonly place: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly maxRedirects: number;
  readonly connections: Connections;
}

export interface RequestLimits {
  /** Milliseconds for all of it. */
  readonly timeout: number;
  readonly signal: AbortSignal;
}

/**
 * Asks for a range.
 * @throws PassingFailure for what may be tried again; Qcow2Error `ERR_QCOW2_CHANGED`, `ERR_QCOW2_UNSUPPORTED`,
 * `ERR_QCOW2_REMOTE`
 */
export async function getRange(request: RangeRequest, way: Way, limits: RequestLimits): Promise<Answer> {
  const ending = new AbortController();
  const { signal } = ending;
  const late = new PassingFailure(`no answer within ${limits.timeout} ms`);
  const timer = setTimeout(() => ending.abort(late), limits.timeout);
  const stop = (): void => ending.abort();
  limits.signal.addEventListener('abort', stop, { once: true });
  try {
    let { place } = way;
    for (let redirects = 0; ; redirects += 1) {
      const response = await send(request, { ...way, place }, signal);
      const next = redirectOf(response, place);
      if (next === null) return await accept(request, response, place, signal);
      response.destroy();
      if (redirects >= way.maxRedirects)
        throw remote(request, `it redirects more than ${way.maxRedirects} times`);
      refuseUnsafe(request, place, next);
      place = next;
    }
  } catch (error) {
    limits.signal.throwIfAborted();
    if (error instanceof Qcow2Error || error instanceof PassingFailure) throw error;
    const distrust = tlsFailure(error);
    if (distrust !== null) throw remote(request, distrust, error);
    throw signal.aborted ? late : new PassingFailure((error as Error).message, error);
  } finally {
    clearTimeout(timer);
    limits.signal.removeEventListener('abort', stop);
  }
}

function send(request: RangeRequest, { origin, place, headers, connections }: Way, signal: AbortSignal) {
  const { start, length, seen } = request;
  const isAtHome = place.origin === origin.origin;
  const options = {
    headers: {
      ...(isAtHome ? headers : {}),
      ...validators(seen),
      'accept-encoding': 'identity',
      range: `bytes=${start}-${start + length - 1}`,
    },
    signal,
  };
  return new Promise<IncomingMessage>((resolve, reject) => {
    const sent =
      place.protocol === 'https:'
        ? requestHttps(place, { ...options, agent: connections.https })
        : requestHttp(place, { ...options, agent: connections.http });
    sent.on('response', resolve).on('error', reject).end();
  });
}

/** Lets the server itself notice that the file has changed. */
function validators(seen: Answer | null): Record<string, string> {
  if (seen === null) return {};
  // A weak tag never matches here, whatever the file.
  if (seen.etag !== null && !seen.etag.startsWith('W/')) return { 'if-match': seen.etag };
  return seen.lastModified === null ? {} : { 'if-unmodified-since': seen.lastModified };
}

const redirects = [301, 302, 303, 307, 308];

function redirectOf({ statusCode = 0, headers }: IncomingMessage, place: URL): URL | null {
  if (!redirects.includes(statusCode) || headers.location === undefined) return null;
  return URL.canParse(headers.location, place.href) ? new URL(headers.location, place) : null;
}

function refuseUnsafe(request: RangeRequest, from: URL, to: URL): void {
  if (to.protocol === 'https:' || (to.protocol === 'http:' && from.protocol === 'http:')) return;
  throw remote(request, `it redirects from ${from.protocol} to ${to.protocol}, which is not followed`);
}

/** Checks an answer and takes its bytes. */
async function accept(
  request: RangeRequest,
  response: IncomingMessage,
  place: URL,
  signal: AbortSignal,
): Promise<Answer> {
  try {
    const answer = { total: totalOf(request, response), ...tagsOf(response), place };
    if (request.seen !== null) refuseChanged(request, request.seen, answer);
    const length = Math.min(request.length, answer.total - request.start);
    if (length > 0) await takeBody(response, length, request, signal);
    else response.resume();
    return answer;
  } catch (error) {
    response.destroy();
    throw error;
  }
}

/** The length of the whole file, from an answer that has the right part of it. */
function totalOf(request: RangeRequest, response: IncomingMessage): number {
  const { statusCode = 0, headers } = response;
  const contentRange = headers['content-range'] ?? '';
  if (statusCode === 416 && request.seen === null && /^bytes \*\/0$/.test(contentRange)) return 0;
  if (statusCode === 412 || (statusCode === 416 && request.seen !== null)) throw changed(request);
  if (statusCode === 200) {
    if (request.seen !== null) throw changed(request);
    throw new Qcow2Error(
      'ERR_QCOW2_UNSUPPORTED',
      `${request.name}: the server does not give parts of a file (it answers a range request with all of it)`,
      { feature: 'range requests' },
    );
  }
  if (statusCode === 408 || statusCode === 429 || statusCode >= 500) {
    throw new PassingFailure(
      `the server answers ${statusCode}`,
      undefined,
      retryAfter(headers['retry-after']),
    );
  }
  if (statusCode !== 206) throw remote(request, `the server answers ${statusCode}`);
  if ((headers['content-encoding'] ?? 'identity') !== 'identity')
    throw remote(request, 'the answer is encoded');
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/.exec(contentRange);
  const [first, last, total] = (match?.slice(1) ?? []).map(Number);
  if (first === undefined || last === undefined || total === undefined || !Number.isSafeInteger(total)) {
    throw remote(request, `the answer has the content range ${quote(contentRange)}`);
  }
  const end = Math.min(request.start + request.length, total);
  if (first !== request.start || last !== end - 1) {
    throw remote(
      request,
      `bytes ${request.start} to ${end - 1} were asked for, and ${first} to ${last} came`,
    );
  }
  return total;
}

function tagsOf({ headers }: IncomingMessage): Pick<Answer, 'etag' | 'lastModified'> {
  return { etag: headers.etag ?? null, lastModified: headers['last-modified'] ?? null };
}

function refuseChanged(request: RangeRequest, seen: Answer, now: Answer): void {
  const isSame =
    seen.total === now.total &&
    seen.etag === now.etag &&
    (seen.etag !== null || seen.lastModified === now.lastModified);
  if (!isSame) throw changed(request);
}

/** Takes exactly `length` bytes. */
async function takeBody(
  response: IncomingMessage,
  length: number,
  { buffer }: RangeRequest,
  signal: AbortSignal,
): Promise<void> {
  let at = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    if (at + chunk.length > length) throw new PassingFailure('the answer is longer than announced');
    if (buffer !== null) chunk.copy(buffer, at);
    at += chunk.length;
  }
  signal.throwIfAborted();
  if (at < length) throw new PassingFailure(`the answer broke off after ${at} of ${length} bytes`);
}

/** Milliseconds; 0 when the header says nothing useful. */
function retryAfter(header: string | undefined): number {
  const seconds = Number(header ?? 0);
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : 0;
}

const changed = ({ name, start }: RangeRequest): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_CHANGED', `${name} has changed since it was opened; open it again`, {
    offset: start,
  });

const remote = ({ name, start }: RangeRequest, what: string, cause?: unknown): Qcow2Error =>
  new Qcow2Error('ERR_QCOW2_REMOTE', `${name} could not be read at offset ${start}: ${what}`, {
    offset: start,
    ...(cause === undefined ? {} : { cause }),
  });
