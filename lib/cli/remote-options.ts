/** The options that name an image on a server, behind `--image-opts` and in `json:`: those of QEMU's drivers nbd, http and https. */
import { Failure } from './failure.js';

const remoteDrivers = ['nbd', 'http', 'https'] as const;
type RemoteDriver = (typeof remoteDrivers)[number];

/** Whether a driver is one for servers. */
export function isRemoteDriver(driver: string | undefined): driver is RemoteDriver {
  return remoteDrivers.some((known) => known === driver);
}

const nbdOptions = [
  'server.type',
  'server.host',
  'server.port',
  'server.path',
  'host',
  'port',
  'path',
  'export',
];
const knownOptions: Readonly<Record<RemoteDriver, readonly string[]>> = {
  nbd: [...nbdOptions, 'reconnect-delay', 'open-timeout'],
  http: ['url', 'readahead', 'timeout'],
  https: ['url', 'readahead', 'timeout'],
};

/**
 * Where the image is.
 * @param options those of the driver, without the `file.` before them
 * @param common what every driver takes
 * @throws Failure in the words of qemu-img for what is missing or unknown
 */
export function remoteFromOptions(
  driver: RemoteDriver,
  options: ReadonlyMap<string, string>,
  common: ReadonlySet<string>,
): URL {
  for (const name of options.keys()) {
    if (name === 'driver' || common.has(name) || knownOptions[driver].includes(name)) continue;
    throw new Failure(`Block protocol '${driver}' doesn't support the option '${name}'`);
  }
  return driver === 'nbd' ? nbdUrl(options) : httpUrl(driver, options.get('url'));
}

function httpUrl(driver: 'http' | 'https', url: string | undefined): URL {
  if (url === undefined) throw new Failure("curl block driver requires an 'url' option");
  if (!url.startsWith(`${driver}://`)) {
    throw new Failure(
      `${driver} curl driver cannot handle the URL '${url}' (does not start with '${driver}://')`,
    );
  }
  if (!URL.canParse(url)) throw new Failure(`'${url}' is no URL`);
  return new URL(url);
}

function nbdUrl(options: ReadonlyMap<string, string>): URL {
  const path = options.get('server.path') ?? options.get('path');
  const host = options.get('server.host') ?? options.get('host');
  const name = encodeURIComponent(options.get('export') ?? '');
  const type = options.get('server.type') ?? (path === undefined ? 'inet' : 'unix');
  if (path !== undefined && host !== undefined)
    throw new Failure('path and host may not be used at the same time');
  if (type === 'unix' && path !== undefined) {
    return new URL(`nbd+unix:///${name}?socket=${encodeURIComponent(path)}`);
  }
  if (type === 'inet' && host !== undefined) {
    const port = options.get('server.port') ?? options.get('port') ?? '10809';
    const url = `nbd://${host.includes(':') ? `[${host}]` : host}:${port}/${name}`;
    if (URL.canParse(url)) return new URL(url);
    throw new Failure(`There is no server '${host}' with port '${port}'`);
  }
  if (type !== 'unix' && type !== 'inet') {
    throw new Failure(`Parameter 'type' does not accept value '${type}'`, {
      hint: 'This program has inet and unix.',
    });
  }
  throw new Failure('NBD server address missing');
}
