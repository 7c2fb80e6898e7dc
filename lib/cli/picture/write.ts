/** `map --html` and `map --svg`: a picture of an image, in a file. */
import { open } from 'node:fs/promises';
import type { Disk } from '../../index.js';
import { imagePicture } from '../../index.js';
import { Failure } from '../failure.js';
import { interruptible } from '../interrupt.js';
import { isQcow2 } from '../is-qcow2.js';
import { pictureDrawing } from './drawing.js';
import { picturePage } from './page.js';

export interface PictureFiles {
  readonly html: string | null;
  readonly svg: string | null;
}

/** @param title what the picture calls the image */
export async function writePicture(disk: Disk, title: string, { html, svg }: PictureFiles): Promise<void> {
  if (!isQcow2(disk)) throw new Failure('Only qcow2 images can be pictured');
  await interruptible(async (signal) => {
    const picture = await imagePicture(disk, { signal });
    if (html !== null) await replace(html, picturePage(picture, title));
    if (svg !== null) await replace(svg, pictureDrawing(picture, title));
  });
}

/** Writes a file, over an earlier picture if need be, but over nothing else: a slip of the hand must not cost an image. */
async function replace(path: string, markup: string): Promise<void> {
  const file = await open(path, 'a+');
  try {
    const first = Buffer.alloc(1);
    const { bytesRead } = await file.read(first, 0, 1, 0);
    if (bytesRead > 0 && first.toString('latin1') !== '<') {
      throw new Failure(`Could not write '${path}': it exists and is no picture`);
    }
    await file.truncate(0);
    await file.writeFile(markup);
  } finally {
    await file.close();
  }
}
