/** What the tests use of s3rver, which has no types of its own. */
declare module 's3rver' {
  export default class S3rver {
    constructor(options: { address: string; port: number; silent: boolean; directory: string });
    /** Resolves to the address it listens at. */
    run(): Promise<{ port: number }>;
    close(): Promise<void>;
  }
}
