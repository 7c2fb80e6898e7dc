// Compiles the addon for one target: its codecs first, then the addon with these linked in.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { buildProject, cmake, compileAddon } from '../compile-addon.mjs';
import { codecSources, scripts, work } from './folders.mjs';

/** Leaves the addon in build/Release of the folder that it returns, where prebuildify looks for it. */
export function compile(target) {
  const folder = join(work, target.name);
  const options = target.cmake();
  const codecs = join(folder, 'codecs');
  const codecsBuild = join(folder, 'codecs-build');
  buildProject(join(scripts, 'codecs'), codecsBuild, [
    ...options,
    `-DQCOW2_CODEC_SOURCES=${codecSources}`,
    `-DCMAKE_INSTALL_PREFIX=${codecs}`,
    '-DCMAKE_INSTALL_LIBDIR=lib',
  ]);
  cmake('--install', codecsBuild);

  const build = join(folder, 'build');
  rmSync(join(build, 'Release'), { recursive: true, force: true });
  compileAddon(build, [
    ...options,
    `-DCMAKE_PREFIX_PATH=${codecs}`,
    `-DCMAKE_FIND_ROOT_PATH=${codecs}`,
    `-DQCOW2_REQUIRE_CODECS=${target.codecs.join(';')}`,
  ]);
  return folder;
}
