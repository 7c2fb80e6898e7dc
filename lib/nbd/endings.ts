/** The ways in which a connection ends before its time. */

/** The other side went away, or the stream failed. */
export class ConnectionLost extends Error {
  override readonly name = 'ConnectionLost';
}

/** The other side breaks the protocol in a way after which nothing it sends can be understood. */
export class ProtocolViolation extends Error {
  override readonly name = 'ProtocolViolation';
}
