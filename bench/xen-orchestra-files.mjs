// Files as @xen-orchestra/qcow2 wants them.
import { open, stat } from 'node:fs/promises';

export function filesOfNode() {
  const handles = [];
  return {
    isEncrypted: false,
    openFile: async (path) => handles.push(await open(path)) - 1,
    closeFile: (index) => handles[index].close(),
    getSize: async (path) => (await stat(path)).size,
    read: (index, buffer, position) => handles[index].read(buffer, 0, buffer.length, position),
  };
}
