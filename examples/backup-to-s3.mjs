// Backup of a disk into an S3-compatible store, and a look into it there: nothing is stored in between, and looking fetches only the
// ranges it needs. The client takes its credentials and its endpoint from the environment (AWS_ENDPOINT_URL and so on).
// node examples/backup-to-s3.mjs IMAGE BUCKET KEY
import { S3Client } from '@aws-sdk/client-s3';
import { open, toQcow2Stream } from 'qcow2';
import { S3Storage, uploadToS3 } from 'qcow2/s3';

const [image, bucket, key] = process.argv.slice(2);
if (key === undefined) throw new Error('usage: backup-to-s3.mjs IMAGE BUCKET KEY');

// Most stores that are not Amazon's have the bucket in the path.
const client = new S3Client({ forcePathStyle: true });
const disk = await open(image, { resolve: 'same-directory' });

// The stream knows its length before its first byte, so that the parts of the upload can be made to fit.
const stream = toQcow2Stream(disk);
const length = await stream.sized();
const stored = await uploadToS3(stream, { client, bucket, key, length });
console.log(`s3://${bucket}/${key}: ${stored.length} bytes`);

const copy = await open(await S3Storage.open({ client, bucket, key }));
const first = Buffer.alloc(512);
await copy.read(first, 0);
console.log(`the first sector of its ${copy.size} bytes begins with ${first.subarray(0, 8).toString('hex')}`);

await copy.close();
await disk.close();
client.destroy();
