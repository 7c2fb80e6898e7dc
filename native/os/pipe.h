// Reading much of a pipe, or of anything else that comes in small pieces, in one go.
#ifndef QCOW2_OS_PIPE_H_
#define QCOW2_OS_PIPE_H_

#include "core/span.h"
#include "os/result.h"

namespace qcow2 {

// Reads from the descriptor's own position until `buffer` is full, the input ends, or `*stop` is no longer 0, which is
// looked at ten times a second. The value is the bytes read. Not on Windows.
OsResult readPipe(int fd, MutableBytes buffer, const volatile unsigned char* stop);

}  // namespace qcow2

#endif  // QCOW2_OS_PIPE_H_
