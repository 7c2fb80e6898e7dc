// A process that merges a chain into a kept target, or commits an image, says each checkpoint, and is meant to be killed.
// node copy-process.mjs JOB, where JOB is { job, layers, target, targetFormat, checkpoint } as JSON
import { convert, open, openChain } from '../../dist/index.js';

const { job, layers, target, targetFormat, checkpoint } = JSON.parse(process.argv[2]);
const options = {
  checkpointBytes: 2 ** 20,
  // The next piece waits for the reader of the pipe: whoever kills has the time to.
  onCheckpoint: (reached) =>
    new Promise((done) => process.stdout.write(`${JSON.stringify(reached)}\n`, done)),
  ...(checkpoint === null ? {} : { resumeFrom: checkpoint }),
};
if (job === 'merge') {
  const chain = await openChain(layers);
  await convert(chain, target, { ...options, targetFormat, keepTarget: true });
  await chain.close();
} else {
  const image = await open(target, { mode: 'r+', resolve: 'any' });
  await image.commit(options).catch((error) => {
    // The emptying of the image had begun: then it is committed from the start, as the message says.
    if (error.feature !== 'checkpoint' || checkpoint === null) throw error;
    return image.commit({ ...options, resumeFrom: undefined });
  });
  await image.close();
}
