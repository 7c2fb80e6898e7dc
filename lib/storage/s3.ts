/** The public face of `qcow2/s3`: images in S3-compatible stores, through the official client (`@aws-sdk/client-s3`). */
export { S3Storage, type S3Object, type S3StorageOptions } from './s3-storage.js';
export { uploadToS3, type S3Upload, type S3UploadOptions } from './s3-upload.js';
