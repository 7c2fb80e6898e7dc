/** What to tell of a TLS handshake that failed, and what can be done about it. */

/** Codes of node:tls for a certificate that is not trusted, beside those that begin with `CERT_`. */
const distrusted = new Set([
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'INVALID_CA',
  'INVALID_PURPOSE',
]);

/** Words in the alert of a server that wants to know who the client is. */
const aboutClient = /certificate|unknown ca|access denied/;

/** A text for a failure of TLS, or caused by one, that trying again does not change; null for any other error. */
export function tlsFailure(error: unknown): string | null {
  if (!(error instanceof Error)) return null;
  const { code = '', reason } = error as NodeJS.ErrnoException & { reason?: string };
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return `the certificate of the server is for another name (${error.message})`;
  if (distrusted.has(code) || code.startsWith('CERT_')) {
    return `the certificate of the server is not trusted (${error.message}); tls.ca takes the authority that vouches for it`;
  }
  if (!code.startsWith('ERR_SSL_') || reason === undefined) return tlsFailure(error.cause);
  const remedy = aboutClient.test(reason)
    ? '; it wants a certificate that it trusts from the client (tls.cert and tls.key)'
    : '';
  return `TLS with the server failed (${reason})${remedy}`;
}
