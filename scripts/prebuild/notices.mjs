// Writes THIRD_PARTY_NOTICES.md: the licences of what the prebuilt binaries have linked in, from those libraries' own files.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { codecs } from './codec-sources.mjs';
import { codecSources, root } from './folders.mjs';

const licenceFiles = { libdeflate: 'COPYING', zstd: 'LICENSE', 'isa-l': 'LICENSE' };

const expat = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`;

function section(title, what, licence) {
  return `## ${title}\n\n${what}\n\n\`\`\`\n${licence.trim()}\n\`\`\`\n`;
}

/** The whole text. */
export function notices() {
  const libraries = codecs.map(({ name, archive, sha256 }) => {
    const version = /_([\d.]+)/.exec(archive)[1].replace(/\.$/, '');
    const licence = readFileSync(join(codecSources, name, licenceFiles[name]), 'utf8');
    return section(`${name} ${version}`, `From Debian's \`${archive}\` (SHA-256 \`${sha256}\`).`, licence);
  });
  const addonApi = readFileSync(join(root, 'node_modules/node-addon-api/LICENSE.md'), 'utf8');
  return [
    '# Third-party notices',
    '',
    'The prebuilt binaries of qcow2 contain code of these projects. Made by `npm run prebuildify`; do not edit.',
    '',
    ...libraries,
    section('node-addon-api', 'Headers only.', addonApi),
    section(
      'mingw-w64 (Windows only)',
      'Parts of its start-up code and of winpthreads.',
      `Copyright (c) 2011-2016 mingw-w64 project\n\n${expat}`,
    ),
    '## libstdc++ and libgcc',
    '',
    'Parts of the GNU C++ library and of the GCC runtime are linked in under the GCC Runtime Library Exception 3.1, which',
    'permits that under any licence: https://www.gnu.org/licenses/gcc-exception-3.1.html',
    '',
  ].join('\n');
}

export function writeNotices() {
  writeFileSync(join(root, 'THIRD_PARTY_NOTICES.md'), notices());
}
