// Opens an image and keeps it open until its standard input ends: run by locks.test.ts.
import { open } from '../../dist/index.js';

const [image, mode, lock] = process.argv.slice(2);
const disk = await open(image, { mode, lock: lock === 'lock' });
process.stdout.write('open\n');
process.stdin.resume().once('end', () => void disk.close());
