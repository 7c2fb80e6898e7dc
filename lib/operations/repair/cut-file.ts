/**
 * Refusing to lengthen an image file that was cut, by a copy that broke off for instance. What lay behind its end cannot be
 * read; it would read as zeros, or as whatever comes to lie there, as soon as the file is as long as it was.
 */
import { Qcow2Error } from '../../errors.js';
import type { Image } from '../../metadata/image.js';
import { CheckContext } from '../check/context.js';
import { Findings } from '../check/findings.js';
import { CheckProgress } from '../check/reader.js';
import { countReferences } from '../check/references.js';

/**
 * To be called when clusters behind the end of the file are counted. A crash may leave such, that were never written;
 * nothing refers to those.
 * @throws Qcow2Error `ERR_QCOW2_CORRUPT` when something does, or when that cannot be told
 */
export async function refuseCutFile(image: Image): Promise<void> {
  const findings = new Findings({ maxFindings: 1 });
  const context = await CheckContext.of(image, findings, new CheckProgress({}), {});
  await countReferences(context, { refcountStructure: true });
  const [first] = findings.kept;
  if (first === undefined && context.refcountDamage === 0) return;
  throw new Qcow2Error(
    'ERR_QCOW2_CORRUPT',
    `${image.storage.name} counts clusters past its end, at ${context.fileSize} bytes, and is damaged: it may have been cut. ` +
      `Nothing was written, as what is missing would pass for zeros then; check it, or restore it from a copy. First: ` +
      (first?.message ?? 'the refcount table is damaged'),
    { offset: context.fileSize, feature: 'refcount' },
  );
}
