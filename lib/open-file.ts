/** Opening the file of an image. */
import type { OpenOptions, Source } from './options.js';
import { openSource, type OpenedSource } from './storage/open-source.js';

/** Opens the file of an image, or the part of it that is the image. */
export async function openFile(
  source: Source,
  { mode = 'r', lock = true, window }: Pick<OpenOptions, 'mode' | 'lock' | 'window'>,
  regularOnly = false,
): Promise<OpenedSource> {
  const opened = await openSource(source, { mode, lock, regularOnly });
  if (window === undefined) return opened;
  const { openWindow } = await import('./storage/window.js');
  return openWindow(opened, window);
}
