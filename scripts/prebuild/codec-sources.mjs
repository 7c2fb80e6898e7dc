// Fetches the sources of the codecs that prebuilt binaries have linked in: Debian's, by apt, each held against its hash.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { codecSources } from './folders.mjs';
import { run } from './run.mjs';

/** With these the notices in THIRD_PARTY_NOTICES.md and the licences change, too. */
export const codecs = [
  {
    name: 'libdeflate',
    source: 'libdeflate',
    archive: 'libdeflate_1.23.orig.tar.gz',
    sha256: '1ab18349b9fb0ce8a0ca4116bded725be7dcbfa709e19f6f983d99df1fb8b25f',
  },
  {
    name: 'zstd',
    source: 'libzstd',
    archive: 'libzstd_1.5.7+dfsg.orig.tar.xz',
    sha256: '0c092ef267edce57ba7f3f2645c861f72eaf5e76273c6c3632869423464b90a5',
  },
  {
    name: 'isa-l',
    source: 'libisal',
    archive: 'libisal_2.31.1.orig.tar.gz',
    sha256: 'e1d5573a4019738243b568ab1e1422e6ab7557c5cae33cc8686944d327ad6bb4',
  },
];

/** Sources of the Debian release that has these versions, without a change to this machine's list of sources. */
function aptOptions() {
  const state = join(codecSources, 'apt');
  mkdirSync(join(state, 'lists', 'partial'), { recursive: true });
  writeFileSync(join(state, 'sources.list'), 'deb-src http://deb.debian.org/debian trixie main\n');
  return [
    `Dir::Etc::sourcelist=${join(state, 'sources.list')}`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::lists=${join(state, 'lists')}`,
  ].flatMap((option) => ['-o', option]);
}

/** Leaves each codec's source in a folder of its name; one that is there already stays. */
export function fetchCodecSources() {
  mkdirSync(codecSources, { recursive: true });
  const missing = codecs.filter(({ name }) => !existsSync(join(codecSources, name)));
  if (missing.length === 0) return;
  const absent = missing.filter(({ archive }) => !existsSync(join(codecSources, archive)));
  if (absent.length > 0) {
    const options = aptOptions();
    run('apt-get', [...options, 'update']);
    const sources = absent.map(({ source }) => source);
    run('apt-get', [...options, 'source', '--download-only', '--tar-only', ...sources], {
      cwd: codecSources,
    });
  }
  for (const codec of missing) unpack(codec);
}

function unpack({ name, archive, sha256 }) {
  const path = join(codecSources, archive);
  const found = createHash('sha256').update(readFileSync(path)).digest('hex');
  if (found !== sha256) throw new Error(`${archive} has the hash ${found} instead of ${sha256}`);
  const unpacked = join(codecSources, `${name}.part`);
  rmSync(unpacked, { recursive: true, force: true });
  mkdirSync(unpacked);
  run('tar', ['-xf', path, '-C', unpacked, '--strip-components=1']);
  renameSync(unpacked, join(codecSources, name));
}

if (process.argv[1] === import.meta.filename) fetchCodecSources();
