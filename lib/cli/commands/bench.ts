/** `bench`: measures how long requests to a disk take. */
import type { Context } from '../context.js';
import { failure, systemErrorText } from '../error-text.js';
import { Failure, UsageFailure } from '../failure.js';
import { CommandLine } from '../getopt.js';
import type { FoundOption } from '../getopt.js';
import { ImageArguments } from '../image-arguments.js';
import type { WritableDisk } from '../../index.js';
import { interruptible } from '../interrupt.js';
import { parseSize, sizeArgument } from '../sizes.js';
import { spec } from '../specs/bench.js';

const cacheModes = ['none', 'off', 'writeback', 'writethrough', 'directsync', 'unsafe'];
const aioModes = ['threads', 'native', 'io_uring'];
const maxInt = 2 ** 31 - 1;

export async function run(words: readonly string[], context: Context): Promise<number> {
  const request = parse(words);
  const { images, file, write, offset, depth, size, step, count, flushInterval } = request;
  const name = images.name(file);
  const { disk } = write
    ? await images.openForWriting(name, context)
    : await images.openDisk(name, { data: true });
  const { out } = context;
  try {
    if (disk.size === 0) throw new Failure('A disk of 0 bytes cannot be measured');
    out.write(
      `Sending ${count} ${write ? 'write' : 'read'} requests, ${size} bytes each, ${depth} in parallel ` +
        `(starting at offset ${offset}, step size ${step === 0 ? size : step})\n`,
    );
    if (flushInterval > 0) out.write(`Sending flush every ${flushInterval} requests\n`);
    out.flush();
    const start = performance.now();
    await interruptible((signal) => new Bench(disk as WritableDisk, request, signal).run()).catch(
      (error: unknown) => {
        if (error instanceof Error && error.name === 'Interrupted') throw error;
        const text = error instanceof RangeError ? 'Input/output error' : systemErrorText(error);
        throw failure('Failed request: ', { text }, error);
      },
    );
    out.write(`Run completed in ${((performance.now() - start) / 1000).toFixed(3)} seconds.\n`);
  } finally {
    await disk.close();
  }
  return 0;
}

interface Request {
  images: ImageArguments;
  count: number;
  depth: number;
  /** Bytes. */
  offset: number;
  size: number;
  /** 0 for the size of a request. */
  step: number;
  write: boolean;
  pattern: number;
  /** 0 for no flushes. */
  flushInterval: number;
  drain: boolean;
  file: string;
}

function parse(words: readonly string[]): Request {
  const line = new CommandLine(spec.options, words);
  const request: Request = {
    images: new ImageArguments(),
    count: 75000,
    depth: 64,
    offset: 0,
    size: 4096,
    step: 0,
    write: false,
    pattern: 0,
    flushInterval: 0,
    drain: true,
    file: '',
  };
  for (const option of line) {
    if (!request.images.take(option.name, option.value)) takeOption(request, option);
  }
  const [file, ...more] = line.positionals;
  if (file === undefined || more.length > 0) throw new UsageFailure('Expecting one image file name');
  if (!request.write && request.flushInterval > 0) {
    throw new Failure('--flush-interval is only available in write tests');
  }
  if (request.flushInterval > 0 && request.flushInterval < request.depth) {
    throw new Failure("Flush interval can't be smaller than depth");
  }
  return { ...request, file };
}

type BenchOption = FoundOption<Exclude<(typeof spec.options)[number]['name'], 'help'>>;

function takeOption(request: Request, { name, value }: BenchOption): void {
  switch (name) {
    case 'count':
      request.count = wholeNumber(value, 'request count');
      break;
    case 'depth':
      request.depth = wholeNumber(value, 'queue depth', 1);
      break;
    case 'offset':
      request.offset = Number(sizeArgument('offset', value));
      break;
    case 'buffer-size':
      request.size = intSize('buffer size', value);
      break;
    case 'step-size':
      request.step = intSize('step_size', value);
      break;
    case 'write':
      request.write = true;
      break;
    case 'pattern':
      request.pattern = wholeNumber(value, 'pattern byte', 0, 255);
      break;
    case 'flush-interval':
      request.flushInterval = wholeNumber(value, 'flush interval');
      break;
    case 'no-drain':
      request.drain = false;
      break;
    case 'cache':
      if (!cacheModes.includes(value)) throw new Failure('Invalid cache mode');
      break;
    case 'aio':
      if (!aioModes.includes(value)) throw new Failure(`Invalid aio option: ${value}`);
      break;
    default:
      // Accepted for compatibility, or taken above.
      break;
  }
}

function wholeNumber(text: string, what: string, least = 0, most = maxInt): number {
  const number = /^\s*\+?(\d+|0[xX][0-9a-fA-F]+)$/.test(text) ? Number(text) : NaN;
  if (number >= least && number <= most) return number;
  throw new Failure(`Invalid ${what} specified`);
}

/** Bytes that an int can count. */
function intSize(what: string, text: string): number {
  const size = parseSize(text);
  if (size === 'malformed') return Number(sizeArgument(what, text));
  if (size !== 'too-large' && size <= BigInt(maxInt)) return Number(size);
  throw new Failure(`Invalid ${what} specified. Must be between 0 and ${maxInt}.`);
}

/** Sends requests one behind the other, round and round the disk, some of them in flight at once. */
class Bench {
  readonly #disk: WritableDisk;
  readonly #request: Request;
  readonly #signal: AbortSignal;
  readonly #underWay = new Set<Promise<void>>();
  #failure: { error: unknown } | undefined;

  constructor(disk: WritableDisk, request: Request, signal: AbortSignal) {
    this.#disk = disk;
    this.#request = request;
    this.#signal = signal;
  }

  async run(): Promise<void> {
    const { count, depth, offset, size, flushInterval, drain } = this.#request;
    const step = this.#request.step === 0 ? size : this.#request.step;
    const buffers = Array.from({ length: Math.min(depth, count) }, () =>
      Buffer.alloc(size, this.#request.pattern),
    );
    let at = offset;
    for (let sent = 0; sent < count; sent++) {
      if (sent > 0 && flushInterval > 0 && sent % flushInterval === 0) {
        if (drain) await Promise.all(this.#underWay);
        await this.#disk.flush();
      }
      while (this.#underWay.size >= depth) await Promise.race(this.#underWay);
      if (this.#failure !== undefined) break;
      this.#signal.throwIfAborted();
      const buffer = buffers.pop();
      if (buffer === undefined) break;
      this.#send(buffer, at, () => buffers.push(buffer));
      at = (at + step) % this.#disk.size;
    }
    await Promise.all(this.#underWay);
    if (this.#failure !== undefined) throw this.#failure.error as Error;
  }

  #send(buffer: Buffer, position: number, done: () => void): void {
    const { write } = this.#request;
    const request = (write ? this.#disk.write(buffer, position) : this.#disk.read(buffer, position))
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => {
        done();
        this.#underWay.delete(request);
      });
    this.#underWay.add(request);
  }
}
