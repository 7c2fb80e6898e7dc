/** Certificates for tests with TLS, made by openssl under the names that QEMU, libnbd and `qcow2 serve` look for. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Makes a directory with a certificate authority of its own, a server for localhost and a client. */
export function makeCertificates(directory: string): string {
  mkdirSync(directory);
  const openssl = (...args: readonly string[]): void => {
    execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' });
  };
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl('req', '-x509', ...key, '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem', '-subj', '/CN=test CA');
  const addresses = 'subjectAltName=DNS:localhost,IP:127.0.0.1';
  for (const [name, extension] of [
    ['server', `${addresses}\nextendedKeyUsage=serverAuth`],
    ['client', 'extendedKeyUsage=clientAuth'],
  ] as const) {
    writeFileSync(join(directory, `${name}.ext`), extension);
    openssl('req', ...key, '-keyout', `${name}-key.pem`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    const files = ['-in', `${name}.csr`, '-out', `${name}-cert.pem`, '-extfile', `${name}.ext`];
    openssl('x509', '-req', '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', ...files);
  }
  return directory;
}
