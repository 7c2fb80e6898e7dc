// Compiles the addon for one target: its codecs first, then the addon with these linked in.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { buildProject, cmake, compileAddon } from '../compile-addon.mjs';
import { codecSources, scripts, work } from './folders.mjs';

/** Leaves the addon in build/Release of the folder that it returns, where prebuildify looks for it. */
export function compile(target) {
  const folder = join(work, target.name);
  const variables = target.cmake();
  const codecs = join(folder, 'codecs');
  const codecsBuild = join(folder, 'codecs-build');
  buildProject(join(scripts, 'codecs'), codecsBuild, {
    ...variables,
    QCOW2_CODEC_SOURCES: codecSources,
    CMAKE_INSTALL_PREFIX: codecs,
    CMAKE_INSTALL_LIBDIR: 'lib',
  });
  cmake('--install', codecsBuild);

  const build = join(folder, 'build');
  rmSync(join(build, 'Release'), { recursive: true, force: true });
  compileAddon(build, {
    ...variables,
    CMAKE_PREFIX_PATH: codecs,
    CMAKE_FIND_ROOT_PATH: codecs,
    QCOW2_REQUIRE_CODECS: target.codecs.join(';'),
  });
  return folder;
}
