/** A file on a web server, read over HTTP or HTTPS with range requests; a file that changes is noticed. */
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import type { SecureContextOptions } from 'node:tls';
import { invalidArgValue, Qcow2Error } from '../errors.js';
import { getRange, type Answer, type Connections } from './http-request.js';
import { RemoteStorage, type RemoteOptions } from './remote-storage.js';
import { PassingFailure, retrying } from './retry.js';

/** How a file is fetched. */
export interface HttpOptions extends RemoteOptions {
  /** Sent with every request, such as `authorization`; not to another origin that the server redirects to. */
  headers?: Readonly<Record<string, string>>;
  /** How often a request may be sent elsewhere; 5 by default, 0 for never. Never from https to http. */
  maxRedirects?: number;
  /** Certificates for https, as `node:tls` takes them. */
  tls?: SecureContextOptions;
}

/** A file on an HTTP or HTTPS server, read-only, by ranges. */
export class HttpStorage extends RemoteStorage {
  readonly #close: () => void;

  private constructor(file: HttpFile, size: number, options: HttpOptions) {
    const fetch = (buffer: Buffer, position: number, signal: AbortSignal): Promise<void> =>
      file.fetch(buffer, position, signal);
    super(file.name, file.url.href, size, fetch, options);
    this.#close = () => file.close();
  }

  /**
   * Looks at a file: whether the server gives ranges of it, how long it is and by what a change is to be known.
   * @param url http: or https:
   * @throws TypeError for any other URL; Qcow2Error `ERR_QCOW2_UNSUPPORTED` when the server does not give ranges,
   * `ERR_QCOW2_REMOTE` for what it answers else; the signal's reason
   */
  static async open(url: string | URL, options: HttpOptions = {}): Promise<HttpStorage> {
    const file = new HttpFile(new URL(url), options);
    try {
      return new HttpStorage(file, await file.probe(), options);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  override async close(): Promise<void> {
    await super.close();
    this.#close();
  }
}

/** The file at a URL, as it was when it was first looked at. */
class HttpFile {
  readonly url: URL;
  /** The URL without what may be secret in it. */
  readonly name: string;
  readonly #options: HttpOptions;
  readonly #connections: Connections;
  /** Where the server last sent us, or the URL itself. */
  #place: URL;
  #seen: Answer | null = null;

  constructor(url: URL, options: HttpOptions) {
    if (url.protocol !== 'http:' && url.protocol !== 'https:') {
      throw invalidArgValue('url', 'must be an http: or https: URL', url.protocol);
    }
    this.url = url;
    this.#place = url;
    this.name = `${url.protocol}//${url.host}${url.pathname}`;
    this.#options = options;
    const settings = { keepAlive: true, maxSockets: options.concurrency ?? 6 };
    this.#connections = {
      http: new HttpAgent(settings),
      https: new HttpsAgent({ ...settings, ...options.tls }),
    };
  }

  /** The length of the file, bytes. */
  async probe(): Promise<number> {
    const signal = this.#options.signal ?? new AbortController().signal;
    try {
      const answer = await retrying(this.#options, signal, () => this.#get(null, 0, 1, signal));
      this.#seen = answer;
      return answer.total;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof PassingFailure)) throw error;
      throw new Qcow2Error('ERR_QCOW2_REMOTE', `${this.name} could not be read: ${error.message}`, {
        cause: error.cause ?? error,
      });
    }
  }

  /** Fills a buffer from the file as it was at first. */
  async fetch(buffer: Buffer, position: number, signal: AbortSignal): Promise<void> {
    await this.#get(buffer, position, buffer.length, signal);
  }

  close(): void {
    this.#connections.http.destroy();
    this.#connections.https.destroy();
  }

  async #get(buffer: Buffer | null, start: number, length: number, signal: AbortSignal): Promise<Answer> {
    const { headers = {}, maxRedirects = 5, timeout = 30_000 } = this.#options;
    const request = { name: this.name, start, length, buffer, seen: this.#seen };
    const way = { origin: this.url, headers, maxRedirects, connections: this.#connections };
    const limits = { timeout, signal };
    try {
      const answer = await getRange(request, { ...way, place: this.#place }, limits);
      this.#place = answer.place;
      return answer;
    } catch (error) {
      if (this.#place === this.url || signal.aborted) throw error;
      // The place the server sent us to may have been for a while only.
      this.#place = this.url;
      throw error instanceof Qcow2Error && error.code !== 'ERR_QCOW2_CHANGED'
        ? new PassingFailure(error.message, error)
        : error;
    }
  }
}
